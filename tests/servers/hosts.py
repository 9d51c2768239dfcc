"""Hosts on this machine: network namespaces that a bridge joins, so that tests can unplug a host.

Needs root, `ip` (iproute2), `nsenter` and `setpriv` (util-linux) on Linux. The hosts reach only one
another. A client of this machine reaches a host by a port of loopback, which `forward.py` serves.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import Account, must, run

__all__ = ["Host", "Hosts", "missing"]

_PROGRAMS = ("ip", "nsenter", "setpriv")
#: A network for tests and documentation (RFC 5737). It exists only inside the namespaces.
_ADDRESS = "192.0.2.{}"


def missing() -> str | None:
    """Return what the machine lacks for `Hosts`; None if it lacks nothing."""
    if lacking := [each for each in _PROGRAMS if shutil.which(each) is None]:
        return f"there is no {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"aiorpc-{secrets.token_hex(3)}"
    tried = run(["ip", "netns", "add", name])
    if tried.returncode:
        return f"this machine makes no network namespaces: {tried.stderr.strip()}"
    bridge = run(_inside(name, "ip", "link", "add", "hub", "type", "bridge"))
    run(["ip", "netns", "del", name])
    return f"this machine makes no bridges: {bridge.stderr.strip()}" if bridge.returncode else None


@dataclass(frozen=True, slots=True)
class Host:
    """
    Attributes:
        namespace: the name of its network namespace.
        name: its name, which the hosts of one network know.
        port: its end of the cable: an interface of the hub.
    """

    namespace: str
    name: str
    address: str
    hub: str
    port: str

    def inside(self, account: Account | None) -> list[str]:
        """Return the start of a command that runs in this host, as `account`. It execs."""
        command = _inside(self.namespace)
        if account is not None:
            command += ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}"]
            command += ["--clear-groups"]
        return command

    def unplug(self) -> None:
        """Let no packet in or out. Nothing is refused or closed, as when a switch fails."""
        _ip(self.hub, "link", "set", self.port, "nomaster")

    def plug(self) -> None:
        _ip(self.hub, "link", "set", self.port, "master", "hub")


class Hosts:
    """The hosts of one network."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    @classmethod
    @contextmanager
    def fresh(cls, size: int) -> Iterator[Hosts]:
        """A network of `size` hosts. End all processes in the hosts before the block ends."""
        name = f"aiorpc-{secrets.token_hex(3)}"
        hub = f"{name}-hub"
        hosts = [
            Host(f"{name}-{number}", f"host{number}", _ADDRESS.format(number), hub, f"port{number}")
            for number in range(1, size + 1)
        ]
        try:
            _add(hub)
            _ip(hub, "link", "add", "hub", "type", "bridge")
            _ip(hub, "link", "set", "hub", "up")
            for host in hosts:
                _add(host.namespace)
                ends = ("link", "add", host.port, "type", "veth", "peer", "name", "eth0")
                _ip(hub, *ends, "netns", host.namespace)
                _ip(host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
                for interface in ("lo", "eth0"):
                    _ip(host.namespace, "link", "set", interface, "up")
                host.plug()
                _ip(hub, "link", "set", host.port, "up")
            yield cls(hosts)
        finally:
            for namespace in (hub, *(host.namespace for host in hosts)):
                run(["ip", "netns", "del", namespace])

    def names(self, directory: Path) -> Path:
        """Write the names of the hosts for Erlang (its `inetrc`), and return the file."""
        lines = [
            f'{{host, {{{host.address.replace(".", ",")}}}, ["{host.name}"]}}.'
            for host in self.hosts
        ]
        path = directory / "inetrc"
        path.write_text("\n".join([*lines, "{lookup, [file, native]}.", ""]))
        path.chmod(0o644)
        return path


def _add(namespace: str) -> None:
    must(run(["ip", "netns", "add", namespace]), f"ip netns add {namespace}")


def _ip(namespace: str, *arguments: str) -> None:
    must(run(_inside(namespace, "ip", *arguments)), f"ip {' '.join(arguments)}")


def _inside(namespace: str, *command: str) -> list[str]:
    """Return a command inside *namespace*. `ip -n` also remounts /, which fails in a chroot."""
    return ["nsenter", f"--net=/run/netns/{namespace}", *command]

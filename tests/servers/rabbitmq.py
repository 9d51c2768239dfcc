"""A private RabbitMQ node with its own EPMD, so no other Erlang on the machine connects to it.

Configuration: https://www.rabbitmq.com/docs/configure; works with 3.8 to 4.x. Tests use it to stop,
kill and start a broker, and to get a node that no other test uses (`Rabbit.fresh()`).
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from .hosts import Host, Hosts
from .private import PrivateServer, find_program, installed
from .probes import listens, speaks_amqp
from .process import LOOPBACK, Process, ServerError, must, run, start, wait_ready
from .state import State

# In tests, alarms would only block publishers.
_CONFIGURATION = """\
listeners.tcp.1 = {loopback}:{amqp}
vm_memory_high_watermark.relative = 0.9
disk_free_limit.absolute = 10MB
log.console = true
log.console.level = info
log.file = false
"""

_ERL_ARGS = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
_ON_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


class Rabbit(PrivateServer):
    """One RabbitMQ node at `url`. Its methods block; in a coroutine use `asyncio.to_thread`."""

    kind = "rabbitmq"
    title = "RabbitMQ"
    accounts = ("rabbitmq",)
    ports = ("amqp", "distribution", "epmd")

    @classmethod
    def main(cls) -> Self | None:
        """
        Return the private node that `up` started; None if RabbitMQ came by another way or is
        missing.
        """
        state = State()
        record = state.records().get(cls.kind)
        return cls(record, state) if record is not None and record.way == "private" else None

    @classmethod
    @contextmanager
    def fresh(cls) -> Iterator[Self]:
        """
        A new, empty node that one test may break. It ends, with its data, at the end of the block.

        It is in the state file, so `down` ends it if the test run is killed. Raises
        `ServerError` when RabbitMQ is not installed (`Rabbit.program()` is None).
        """
        installed(cls)
        node = cls.create(State(), f"rabbitmq-{secrets.token_hex(4)}")
        try:
            yield node
        finally:
            node.remove()

    @classmethod
    def program(cls) -> Path | None:
        # Debian's /usr/sbin/rabbitmq-server is a wrapper that requires the user and the
        # directories of the system service. The server's own script is here.
        return find_program(["rabbitmq-server"], "/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")

    @classmethod
    def url_at(cls, ports: dict[str, int]) -> str:
        return f"amqp://guest:guest@{LOOPBACK}:{ports['amqp']}/"

    @property
    def node_name(self) -> str:
        """The name of the Erlang node."""
        return f"{self.record.name}@localhost"

    def prepare(self) -> None:
        self.configure(secrets.token_hex(20))

    def enable(self, *plugins: str) -> None:
        """Enable plugins before the first start."""
        self.write("enabled_plugins", f"[{','.join(plugins)}].\n")

    def configure(self, cookie: str, settings: str = "", advanced: str = "[].\n") -> None:
        """Write the configuration; nodes of one cluster have one `cookie`."""
        own = _CONFIGURATION.format(loopback=LOOPBACK, **self.record.ports)
        self.write("rabbitmq.conf", own + settings)
        self.write("advanced.config", advanced)
        self.write("enabled_plugins", "[].\n")
        self.write(".erlang.cookie", cookie, mode=0o400)

    def start(self) -> None:
        """Start the node with its former data and ports, and return when it accepts connections."""
        epmd = self.record.processes.get("epmd")
        if epmd is None or not epmd.alive:
            self.use_epmd(self.start_epmd())
        super().start()

    def use_epmd(self, epmd: Process) -> None:
        """Note the EPMD of the node. It ends with the first node that uses it and is removed."""
        self._note({**self.record.processes, "epmd": epmd})

    def start_epmd(self) -> Process:
        """Run EPMD in the foreground. Erlang would start it as a daemon that outlives the node."""
        log = self.directory / "epmd.log"
        epmd = self._spawn([_epmd(), *self._epmd_options], log)
        wait_ready("EPMD", epmd, self._epmd_answers, log, within=30)
        return epmd

    _epmd_options: ClassVar[tuple[str, ...]] = ("-address", LOOPBACK)

    def _epmd_answers(self) -> bool:
        return listens(f"epmd://{LOOPBACK}:{self.record.ports['epmd']}")

    def tool(self, name: str, *arguments: str, within: float = 60) -> str:
        """
        Return the output of one of RabbitMQ's command line tools. Raises `ServerError` if it fails
        or takes over `within` s.
        """
        program = installed(type(self)).with_name(name)
        return self.run_tool([program, "--quiet", *arguments], within=within)

    def command(self) -> list[str | Path]:
        return [installed(type(self))]

    def environment(self) -> dict[str, str]:
        """
        The settings of the node and of `rabbitmqctl`, which read them in place of /etc/rabbitmq.
        """
        directory, ports = str(self.directory), self.record.ports
        return {
            **super().environment(),
            "LC_ALL": "C.UTF-8",  # Elixir warns of any other
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(ports["epmd"]),
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(ports["distribution"]),
            _ERL_ARGS: _ON_LOOPBACK,
            "RABBITMQ_CTL_ERL_ARGS": _ON_LOOPBACK,
            "RABBITMQ_CTL_DIST_PORT_MIN": "0",  # any free port, so that several can run at once
            "RABBITMQ_CTL_DIST_PORT_MAX": "0",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{directory}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{directory}/data",
            "RABBITMQ_LOG_BASE": f"{directory}/log",
            # The script becomes the node instead of waiting for it as its parent: the process
            # id is the node's, SIGTERM and SIGKILL reach it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def answers(self) -> bool:
        return speaks_amqp(self.record.ports["amqp"])

    def ctl(self, *arguments: str, within: float = 60) -> str:
        """Return the output of `rabbitmqctl`; see `tool`."""
        return self.tool("rabbitmqctl", *arguments, within=within)


class ManagedRabbit(Rabbit):
    """
    A node with the plugins for management and shovels, and small limits. Its statistics are fresh.
    """

    ports = (*Rabbit.ports, "management")

    @property
    def management(self) -> str:
        """The URL of the management API."""
        return f"http://guest:guest@{LOOPBACK}:{self.record.ports['management']}"

    def prepare(self) -> None:
        listener = f"management.tcp.ip = {LOOPBACK}\n"
        listener += f"management.tcp.port = {self.record.ports['management']}\n"
        self.configure(secrets.token_hex(20), listener + _SMALL)
        self.enable("rabbitmq_management", "rabbitmq_shovel")


class HostedRabbit(Rabbit):
    """
    A node in a host of `Hosts`. Its AMQP port is the only one that this machine reaches, on
    loopback, through a process that forwards it.
    """

    host: Host
    hosts: Hosts

    @property
    def node_name(self) -> str:
        return f"{self.record.name}@{self.host.name}"

    def start(self) -> None:
        forwarder = self.record.processes.get("forwarder")
        if forwarder is None or not forwarder.alive:
            port = str(self.record.ports["amqp"])
            command = [sys.executable, _FORWARD, self.host.namespace, port]
            log = self.directory / "forward.log"
            forwarder = start(command, log=log, cwd=Path("/"), environment=os.environ, account=None)
            self._note({**self.record.processes, "forwarder": forwarder})
        super().start()

    def environment(self) -> dict[str, str]:
        """The node may use all interfaces of its host: nobody else reaches them."""
        everywhere = ("ERL_EPMD_ADDRESS", _ERL_ARGS, "RABBITMQ_CTL_ERL_ARGS")
        kept = {key: one for key, one in super().environment().items() if key not in everywhere}
        return {**kept, "ERL_INETRC": str(self.hosts.names(self.directory))}

    def _spawn(self, command: list[str | Path], log: Path) -> Process:
        return start(
            [*self.host.inside(self.account), *command],
            log=log,
            cwd=self.directory,
            environment=self.environment(),
            account=None,
        )

    def run_tool(self, command: list[str | Path], *, given: str = "", within: float = 120) -> str:
        done = run(
            [*self.host.inside(self.account), *command],
            cwd=self.directory,
            environment=self.environment(),
            given=given,
            within=within,
        )
        return must(done, " ".join(map(str, command)))

    _epmd_options = ()

    def _epmd_answers(self) -> bool:
        try:
            return bool(self.run_tool([_epmd(), "-names"], within=5))
        except ServerError:
            return False


_FORWARD = Path(__file__).with_name("forward.py")

_SMALL = """\
collect_statistics_interval = 200
max_message_size = 1000000
frame_max = 8192
channel_max = 30
"""


def _epmd() -> Path:
    """Find EPMD in the directory of Erlang's own programs, which not every package adds to PATH."""
    erl = find_program(["erl"])
    places = ("erts-*/bin", "lib/erlang/erts-*/bin")
    directories = [f"{erl.parents[1]}/{each}" for each in places] if erl else []
    program = find_program(["epmd"], *directories)
    if program is None:
        raise ServerError("RabbitMQ is installed, but Erlang's `epmd` cannot be found")
    return program

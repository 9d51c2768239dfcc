"""Installs server packages by apt, without starting their system services.

Touches the machine's packages and, while apt runs, /usr/sbin/policy-rc.d. Works only as root on
Debian, Ubuntu and their derivatives.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .process import must, run

POLICY = Path("/usr/sbin/policy-rc.d")

# 101 is "action forbidden by policy" (invoke-rc.d(8), deb-systemd-invoke(1p)).
_FORBIDDING = """\
#!/bin/sh
# Of aiorpc's `make servers`, which was interrupted if you still find this: remove it.
exit 101
"""

# apt enables these services, so they would start at the next boot of a machine with systemd.
_UNITS = (
    "rabbitmq-server.service",
    "epmd.service",
    "epmd.socket",
    "postgresql.service",
    "mariadb.service",
)


def apt_works() -> bool:
    """Return whether packages can be installed: we are root, and apt is there."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(names: Iterable[str]) -> None:
    """Install the packages `names`. Raises `ServerError` with apt's output if that fails."""
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_SUSPEND": "1",
        "LC_ALL": "C.UTF-8",
    }
    # `update` may fail for a repository that we do not need: that counts only if `install` fails.
    updated = run(["apt-get", "update"], environment=environment, within=300)
    enabled = _enabled_units()
    options = ["--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    with services_forbidden():
        done = run(["apt-get", "install", *options, *names], environment=environment, within=900)
    if done.returncode != 0:
        must(updated, "apt-get update")
    must(done, "apt-get install")
    _disable(_enabled_units() - enabled)


@contextmanager
def services_forbidden(policy: Path = POLICY) -> Iterator[None]:
    """Forbid packages to start services, and restore the machine's own policy at the end."""
    aside = policy.with_name(f"{policy.name}.before-aiorpc")
    _restore(policy, aside)  # left by an interrupted run
    if policy.exists():
        policy.rename(aside)
    try:
        policy.write_text(_FORBIDDING)
        policy.chmod(0o755)
        yield
    finally:
        _restore(policy, aside)


def _restore(policy: Path, aside: Path) -> None:
    if aside.exists():
        aside.replace(policy)
    elif policy.exists() and policy.read_text(errors="replace") == _FORBIDDING:
        policy.unlink()


def _enabled_units() -> set[str]:
    if not shutil.which("systemctl"):
        return set()
    states = {unit: run(["systemctl", "is-enabled", unit]).stdout.strip() for unit in _UNITS}
    return {unit for unit, state in states.items() if state == "enabled"}


def _disable(units: set[str]) -> None:
    """Disable the services of what was installed. Errors are ignored."""
    for unit in units:
        run(["systemctl", "disable", unit])

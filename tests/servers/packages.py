"""Server packages by apt, without letting them start their system services.

Touches the machine's packages and, for as long as apt runs, /usr/sbin/policy-rc.d. Only as root on
Debian, Ubuntu and their kin.
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

# Enabled on installation, these would start at the next boot of a machine that runs systemd.
_UNITS = (
    "rabbitmq-server.service",
    "epmd.service",
    "epmd.socket",
    "postgresql.service",
    "mariadb.service",
)


def apt_works() -> bool:
    """Whether packages can be installed: as root, where apt is."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(names: Iterable[str]) -> None:
    """Install the packages called `names`; raises `ServerError` with apt's own words."""
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_SUSPEND": "1",
        "LC_ALL": "C.UTF-8",
    }
    # Its failure may be that of a repository we do not need: it counts only when the rest fails.
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
    """Forbid packages to start services; the machine's own policy, if any, is back afterwards."""
    aside = policy.with_name(f"{policy.name}.before-aiorpc")
    _restore(policy, aside)  # what an interrupted run left
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
    """Best effort: what was installed for private use shall not run as a service as well."""
    for unit in units:
        run(["systemctl", "disable", unit])

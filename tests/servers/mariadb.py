"""A private MariaDB for tests: fast rather than safe, because `down` deletes its data."""

from __future__ import annotations

from pathlib import Path

from .private import PrivateServer, find_program, installed
from .probes import greets_as_mysql
from .process import LOOPBACK

USER = PASSWORD = DATABASE = "aiorpc"

# Run at each start, one statement a line.
_INITIAL = f"""\
CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;
"""


class MariaDB(PrivateServer):
    """One MariaDB with a database and a user `aiorpc` who may do everything; no Unix socket."""

    kind = "mysql"
    title = "MariaDB"
    accounts = ("mysql",)
    ports = ("mysql",)

    @classmethod
    def program(cls) -> Path | None:
        # Debian's mariadb-server-core lacks what the second program needs.
        parts = ("mariadbd", "mariadb-install-db", "my_print_defaults")
        found = [find_program([part]) for part in parts]
        return found[0] if all(found) else None

    @classmethod
    def url_at(cls, ports: dict[str, int]) -> str:
        return f"mysql://{USER}:{PASSWORD}@{LOOPBACK}:{ports['mysql']}/{DATABASE}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        self.write("initial.sql", _INITIAL)
        script = find_program(["mariadb-install-db"])
        command: list[str | Path] = [
            script or "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
        ]
        command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self.run_tool(command)

    def command(self) -> list[str | Path]:
        settings = {
            "datadir": self.data,
            "tmpdir": self.directory,
            "bind-address": LOOPBACK,
            "port": self.record.ports["mysql"],
            "socket": "",  # its path could be too long for a Unix socket
            "init-file": self.directory / "initial.sql",
            "pid-file": self.directory / "mariadbd.pid",
            "character-set-server": "utf8mb4",
            "max-connections": 200,
            "innodb-buffer-pool-size": "64M",
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-doublewrite": 0,
        }
        options = [f"--{name}={one}" for name, one in settings.items()]
        return [installed(type(self)), "--no-defaults", "--skip-name-resolve", *options]

    def answers(self) -> bool:
        return greets_as_mysql(self.record.ports["mysql"])

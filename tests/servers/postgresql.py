"""A private PostgreSQL for tests: fast rather than safe, because `down` deletes its data."""

from __future__ import annotations

import signal
from pathlib import Path

from .private import PrivateServer, find_program, installed
from .probes import accepts_postgresql
from .process import LOOPBACK

USER = PASSWORD = DATABASE = "aiorpc"


class PostgreSQL(PrivateServer):
    """One PostgreSQL with a database and a superuser `aiorpc`; no Unix socket."""

    kind = "postgresql"
    title = "PostgreSQL"
    accounts = ("postgres",)
    ports = ("postgresql",)
    stop_signal = signal.SIGINT  # "fast" shutdown disconnects clients; SIGTERM would wait for them

    @classmethod
    def program(cls) -> Path | None:
        directories = (
            "/usr/lib/postgresql/*/bin",
            "/usr/pgsql-*/bin",
            "/opt/homebrew/opt/postgresql*/bin",
            "/usr/local/opt/postgresql*/bin",
        )
        program = find_program(["postgres"], *directories)
        return program if program and program.with_name("initdb").exists() else None

    @classmethod
    def url_at(cls, ports: dict[str, int]) -> str:
        return f"postgresql://{USER}:{PASSWORD}@{LOOPBACK}:{ports['postgresql']}/{DATABASE}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        password = self.write("password", PASSWORD, mode=0o400)
        program = installed(type(self))
        initdb: list[str | Path] = [program.with_name("initdb"), "--pgdata", self.data]
        initdb += ["--username", USER, "--pwfile", password, "--auth", "scram-sha-256"]
        initdb += ["--encoding", "UTF8", "--no-locale", "--no-sync"]
        self.run_tool(initdb)
        # The single-user mode of the server needs no client program.
        single: list[str | Path] = [program, "--single", "-F", "-D", self.data, "postgres"]
        self.run_tool(single, given=f"CREATE DATABASE {DATABASE}\n")

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.record.ports["postgresql"]),
            "unix_socket_directories": "",  # its path could be too long for a Unix socket
            "max_connections": "200",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        options = [part for name, one in settings.items() for part in ("-c", f"{name}={one}")]
        return [installed(type(self)), "-D", self.data, *options]

    def answers(self) -> bool:
        return accepts_postgresql(self.record.ports["postgresql"], USER, DATABASE)

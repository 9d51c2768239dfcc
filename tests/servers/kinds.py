"""The three kinds of server that the tests need, and their names in each place. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from .mariadb import MariaDB
from .postgresql import PostgreSQL
from .private import PrivateServer
from .rabbitmq import Rabbit


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. Its name is also the name of the pytest mark and of the record."""

    private: type[PrivateServer]
    variable: str
    service: str
    package: str  # Debian's and Ubuntu's

    @property
    def name(self) -> str:
        return self.private.kind

    @property
    def title(self) -> str:
        return self.private.title

    @property
    def remedy(self) -> str:
        return (
            f"start Docker, or `apt-get install {self.package}`, or set {self.variable} "
            "to the URL of a running one; then run `make servers` again"
        )


RABBITMQ = Kind(Rabbit, "AIORPC_TEST_AMQP_URI", "rabbitmq", "rabbitmq-server")
POSTGRESQL = Kind(PostgreSQL, "AIORPC_TEST_POSTGRESQL_URI", "postgresql", "postgresql")
MYSQL = Kind(MariaDB, "AIORPC_TEST_MYSQL_URI", "mariadb", "mariadb-server")
KINDS = (RABBITMQ, POSTGRESQL, MYSQL)

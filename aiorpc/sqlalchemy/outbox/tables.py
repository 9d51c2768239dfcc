"""
The tables of an outbox on the metadata of a declarative base, and the rows of messages. Values and
pure functions; nothing here awaits or does I/O.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql

from ...transports.codec.properties import decode_content_header
from ...wire.message import Message
from ..records import table_on

__all__ = [
    "LOCKS",
    "OUTBOX",
    "OutboxRow",
    "lock_number",
    "locks_table",
    "outbox_table",
]

#: The name of the table, unless the Outbox has another one.
OUTBOX = "aiorpc_outbox"
#: Rows in the table of locks of MariaDB, at most. Keys with the same number wait for one another.
LOCKS = 1 << 12

# MariaDB compares text without case by default, and a BLOB has 64 KiB.
_NAME = String(255).with_variant(
    mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)
_TEXT = Text().with_variant(mysql.TEXT(charset="utf8mb4"), "mysql", "mariadb")
_BYTES = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
_ID = BigInteger().with_variant(Integer(), "sqlite")


def outbox_table(base: Any, name: str = OUTBOX) -> Table:
    """
    Return the table of messages that wait to be sent, on the metadata of the declarative *base*.

    A row exists until the broker has confirmed its message. Times are milliseconds since 1970.
    ``due_at`` is the earliest time of the next attempt, and NULL for a message that is set aside.
    """
    return table_on(
        base,
        name,
        lambda: [
            Column("id", _ID, primary_key=True, autoincrement=True),
            Column("service", _NAME, nullable=False),
            Column("order_key", _NAME),
            Column("message_id", _NAME),
            Column("exchange", _NAME, nullable=False),
            Column("routing_key", _NAME, nullable=False),
            Column("mandatory", Boolean, nullable=False),
            Column("properties", _BYTES, nullable=False),
            Column("body", _BYTES, nullable=False),
            Column("size", Integer, nullable=False),
            Column("written_at", BigInteger, nullable=False),
            Column("due_at", BigInteger),
            Column("attempts", Integer, nullable=False),
            Column("reason", _TEXT),
            Column("claimed_by", String(36)),
            Index(f"ix_{name}_due", "service", "due_at", "order_key"),
            Index(f"ix_{name}_key", "service", "order_key", "id"),
        ],
    )


def locks_table(base: Any, name: str = OUTBOX) -> Table:
    """
    Return the table of locks that order the transactions of a key on MariaDB and MySQL. On other
    databases it stays empty.
    """
    return table_on(
        base,
        f"{name}_lock",
        lambda: [Column("id", Integer, primary_key=True, autoincrement=False)],
    )


class OutboxRow(msgspec.Struct, frozen=True):
    """A row of the table, as the relay reads it; the fields have the names of the columns."""

    id: int
    order_key: str | None
    exchange: str
    routing_key: str
    mandatory: bool
    properties: bytes
    body: bytes
    written_at: int
    attempts: int

    @property
    def message(self) -> Message:
        """
        The message to send.

        Raises:
            MalformedContent: the properties are not those of a message.
        """
        return decode_content_header(self.properties, self.body)


def lock_number(*names: str, bits: int) -> int:
    """Return a signed number of *bits* bits that stands for *names*."""
    digest = blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "big", signed=True)
    return number >> (64 - bits)

"""Whether a server answers in its own protocol, without a client. Touches one socket each."""

from __future__ import annotations

import socket
import struct
from urllib.parse import urlsplit

DEFAULT_PORTS = {
    "amqp": 5672,
    "amqps": 5671,
    "pyamqp": 5672,
    "postgresql": 5432,
    "postgres": 5432,
    "mysql": 3306,
    "mariadb": 3306,
}


def listens(url: str, within: float = 2) -> bool:
    """Whether a TCP connection to the host and port of `url` is taken within `within` seconds."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    try:
        port = parts.port or DEFAULT_PORTS[scheme]
        with socket.create_connection((parts.hostname or "localhost", port), within):
            return True
    except (OSError, ValueError, KeyError):
        return False


def speaks_amqp(port: int) -> bool:
    """Whether RabbitMQ answers a protocol header with Connection.Start (AMQP 0-9-1, 4.2.2)."""
    answer = _ask(port, b"AMQP\x00\x00\x09\x01", 11)
    return answer[:1] == b"\x01" and answer[7:] == struct.pack("!HH", 10, 10)


def accepts_postgresql(port: int, user: str, database: str) -> bool:
    """Whether PostgreSQL asks for a password ('R'); starting up it answers an error ('E')."""
    parameters = f"user\0{user}\0database\0{database}\0\0".encode()
    startup = struct.pack("!ii", len(parameters) + 8, 3 << 16) + parameters
    return _ask(port, startup, 1) == b"R"


def greets_as_mysql(port: int) -> bool:
    """Whether MariaDB or MySQL sends its greeting: a 4 byte header, then protocol version 10."""
    return _ask(port, b"", 5)[4:] == b"\x0a"


def _ask(port: int, question: bytes, length: int) -> bytes:
    """The first `length` bytes of the answer to `question`; fewer when it closed or kept silent."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(question)
            while len(answer) < length and (more := connection.recv(length - len(answer))):
                answer += more
    except OSError:
        pass
    return answer

"""
Checks whether a server answers in its own protocol. Each check opens one socket, without a client.
"""

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
    """Return whether the host and port of `url` accept a TCP connection within `within` seconds."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    try:
        port = parts.port or DEFAULT_PORTS[scheme]
        with socket.create_connection((parts.hostname or "localhost", port), within):
            return True
    except (OSError, ValueError, KeyError):
        return False


def speaks_amqp(port: int) -> bool:
    """
    Return whether RabbitMQ answers a protocol header with Connection.Start (AMQP 0-9-1, 4.2.2).
    """
    answer = _ask(port, b"AMQP\x00\x00\x09\x01", 11)
    return answer[:1] == b"\x01" and answer[7:] == struct.pack("!HH", 10, 10)


def accepts_postgresql(port: int, user: str, database: str) -> bool:
    """
    Return whether PostgreSQL asks for a password ('R'). While it starts, it sends an error ('E').
    """
    parameters = f"user\0{user}\0database\0{database}\0\0".encode()
    startup = struct.pack("!ii", len(parameters) + 8, 3 << 16) + parameters
    return _ask(port, startup, 1) == b"R"


def greets_as_mysql(port: int) -> bool:
    """Return whether MariaDB or MySQL greets: a 4 byte header, then protocol version 10."""
    return _ask(port, b"", 5)[4:] == b"\x0a"


def _ask(port: int, question: bytes, length: int) -> bytes:
    """Return the first `length` bytes of the answer to `question`; fewer if no more came."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(question)
            while len(answer) < length and (more := connection.recv(length - len(answer))):
                answer += more
    except OSError:
        pass
    return answer

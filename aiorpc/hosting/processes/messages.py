"""
What a worker process and its parent tell each other: lines of JSON on a socket. Imports msgspec;
does no I/O.
"""

from __future__ import annotations

import msgspec

__all__ = ["Condition", "Failure", "Lines", "Listen", "Listening", "encoded"]


class Condition(msgspec.Struct, tag="condition", frozen=True):
    """
    How a worker process is, with the fields of a :class:`~aiorpc.hosting.report.Report`. The
    process says so each second, and at each change.

    Attributes:
        stops_within: seconds that it takes at most to finish its calls after SIGTERM.
    """

    alive: bool
    ready: bool
    reasons: tuple[str, ...]
    stops_within: float


class Failure(msgspec.Struct, tag="failure", frozen=True):
    """
    Why a worker process ends.

    Attributes:
        status: its exit status.
        final: whether another attempt fails too, because the configuration or the command is wrong.
    """

    text: str
    status: int
    final: bool


class Listen(msgspec.Struct, tag="listen", frozen=True):
    """A worker process asks for the socket that listens on *address*, the value of *key*."""

    address: str
    key: str


class Listening(msgspec.Struct, tag="listening", frozen=True):
    """The answer to :class:`Listen`: the socket goes with it, unless there is an *error*."""

    address: str
    error: str | None = None


_decoder = msgspec.json.Decoder(Condition | Failure | Listen | Listening)


def encoded(message: Condition | Failure | Listen | Listening) -> bytes:
    """Return *message* as a line."""
    return msgspec.json.encode(message) + b"\n"


class Lines:
    """Makes messages of received bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[Condition | Failure | Listen | Listening]:
        """Return the messages that *received* completes."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [_decoder.decode(line) for line in lines]

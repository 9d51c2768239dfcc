"""
uvicorn's fast parser for HTTP with a limit for the size of headers. Imports httptools, which is
missing on some platforms; uvicorn's other parser, h11, has a limit of its own.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

__all__ = ["Bounded", "bounded"]

_TEXT = b"The headers are too large.\n"
_REFUSAL = b"".join(
    (
        STATUS_LINE[431],
        b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n",
        b"content-length: %d\r\n\r\n" % len(_TEXT),
        _TEXT,
    )
)


class Bounded(HttpToolsProtocol):
    """
    Refuses a request whose headers have more than ``most`` bytes with status 431. A lost connection
    ends all its requests; uvicorn 0.54 tells only the last of several that are pipelined.
    """

    most: int
    _in_headers = True
    _received = 0
    _refused = False
    _cycles: tuple[RequestResponseCycle, ...] = ()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._received += len(data)
            # If the headers end in this part, on_headers_complete measures them.
            if self._received > self.most and b"\r\n\r\n" not in data:
                self._refuse()
        if not self._refused:
            super().data_received(data)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._received = 0
        sizes = [len(name) + len(value) + 4 for name, value in self.headers]
        if len(self.url) + sum(sizes) > self.most:
            self._refuse()
        if not self._refused:
            super().on_headers_complete()
            unfinished = [each for each in self._cycles if not each.response_complete]
            self._cycles = (*unfinished, self.cycle)

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers = True
        if not self._refused:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end_requests()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._end_requests()

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn's text asks for a WebSocket library, but we have no use for one."""

    def _end_requests(self) -> None:
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._cycles = ()

    def _refuse(self) -> None:
        self._refused = True
        if not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()
        self._end_requests()


def bounded(most: int) -> type[HttpToolsProtocol]:
    """Return a protocol that refuses a request whose headers have more than *most* bytes."""
    return type("Bounded", (Bounded,), {"most": most})

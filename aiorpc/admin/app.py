"""
The ASGI application of the admin address. It knows two functions, and nothing of services or of the
broker: neither probe waits for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..blocking import in_thread
from ..hosting.report import Report
from ..logs import logger

__all__ = ["AdminApp"]

log = logger("aiorpc.admin")

#: The text format of Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds to collect the metrics. Prometheus waits 10 s.
COLLECTING = 30.0
_NOT_CACHED = {"cache-control": "no-store"}


class AdminApp:
    """
    Answers GET and HEAD of ``/livez``, ``/readyz`` and ``/metrics``.

    A probe answers 200 or 503, with the :class:`~aiorpc.hosting.report.Report` as JSON.

    Args:
        status: returns the report now. It must not block.
        metrics: returns the metrics in Prometheus's text format. It runs in a thread, and may take
            its time. None: ``/metrics`` answers 404.
    """

    def __init__(
        self, status: Callable[[], Report], metrics: Callable[[], bytes] | None = None
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._collecting: asyncio.Task[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the admin address serves HTTP, not {scope['type']!r}")
        if scope["method"] in ("GET", "HEAD"):
            response = await self._answer(scope["path"])
        else:
            response = _text("The admin address answers GET and HEAD.", 405, {"allow": "GET, HEAD"})
        await response(scope, receive, send)

    async def _answer(self, path: str) -> Response:
        match path:
            case "/livez":
                report = self._status()
                return _probe(report.alive, report)
            case "/readyz":
                report = self._status()
                return _probe(report.ready, report)
            case "/metrics":
                return await self._scrape()
            case _:
                return _text("There are /livez, /readyz and /metrics.", 404)

    async def _scrape(self) -> Response:
        if self._metrics is None:
            return _text(
                "There are no metrics: pip install 'aiorpc-amqp[prometheus]', and add "
                "aiorpc.middleware.prometheus:metrics to MIDDLEWARE.",
                404,
            )
        # Scrapes at the same time share a thread: one that hangs must not leave a thread for each.
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(in_thread(self._metrics))
        try:
            async with asyncio.timeout(COLLECTING):
                text = await asyncio.shield(self._collecting)
        except TimeoutError:
            log.warning("the metrics could not be collected within %g s", COLLECTING)
            return _text(f"The metrics could not be collected within {COLLECTING:g} s.", 503)
        except Exception:
            log.exception("the metrics could not be collected")
            return _text("The metrics could not be collected: the log has the reason.", 500)
        return Response(text, headers={"content-type": _PROMETHEUS, **_NOT_CACHED})


def _probe(ok: bool, report: Report) -> Response:
    return Response(
        msgspec.json.encode(report), 200 if ok else 503, _NOT_CACHED, "application/json"
    )


def _text(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(f"{text}\n", status, {**_NOT_CACHED, **(headers or {})}, "text/plain")

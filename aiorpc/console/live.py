"""
Looks at the services for all open pages at once, and not at all while no page is open. Awaits the
transport; no other I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from ..exceptions import AioRpcError
from ..hosting.discovery.asking import Asker
from ..hosting.discovery.live_view import view_of
from ..hosting.discovery.shapes import Info, Question
from ..hosting.discovery.watching import Watch
from ..logs import logger
from ..transports.base import State, Transport
from .shapes import described, page_view

__all__ = ["MOST_PAGES", "Live", "TooManyPages"]

log = logger("aiorpc.console")

#: Pages that may be open at a time.
MOST_PAGES = 50
#: Seconds from the first look to the second: rates need two.
FIRST = 0.5


class TooManyPages(AioRpcError):
    """More pages are open than the console serves."""


class _Page:
    """An open page. It gets the newest event of each kind, however slowly it reads."""

    def __init__(self) -> None:
        self.closed = False
        self._events: dict[str, bytes] = {}
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Give the last events, and no more."""
        self.closed = True
        self._changed.set()

    def tell(self, kind: str, event: bytes) -> None:
        self._events[kind] = event
        self._changed.set()

    async def next(self) -> bytes:
        await self._changed.wait()
        self._changed.clear()
        events, self._events = self._events, {}
        return b"".join(events.values())


class Live:
    """
    Sends the figures of all services to open pages, as server-sent events: ``services`` describes
    them, again when an instance starts or stops; ``view`` has the figures of one look.

    Args:
        interval: seconds between two looks.
        wait: seconds to wait for the answers of services.
    """

    def __init__(
        self, transport: Transport, asker: Asker, *, interval: float = 2.0, wait: float = 0.5
    ) -> None:
        self._transport, self._asker = transport, asker
        self._interval, self._wait = interval, wait
        self._pages: set[_Page] = set()
        self._opened = asyncio.Event()
        self._newest: dict[str, bytes] = {}
        self._described_ids: frozenset[str] = frozenset()

    async def events(self) -> AsyncGenerator[bytes]:
        """
        Yield the events of one page, until its generator is closed.

        Raises:
            TooManyPages: at the first event.
        """
        if len(self._pages) >= MOST_PAGES:
            raise TooManyPages(f"{MOST_PAGES} pages are open: close one of them")
        page = _Page()
        for kind, event in self._newest.items():
            page.tell(kind, event)
        self._pages.add(page)
        self._opened.set()
        try:
            yield b"retry: 1000\n\n"
            while not page.closed:
                yield await page.next()
        finally:
            self._pages.discard(page)

    def stop(self) -> None:
        """End the events of all pages."""
        for page in self._pages:
            page.close()

    @property
    def is_looking(self) -> bool:
        """Whether a page is open, or the look for one has not ended."""
        return self._opened.is_set()

    async def run(self) -> None:
        """Look at the services while a page is open, until this task is cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._opened.wait()
            watch = Watch(self._transport, self._asker, (), self._wait)  # rates begin anew
            pause = FIRST
            while self._pages:
                next_at = clock() + pause
                await self._look(watch)
                await asyncio.sleep(next_at - clock())
                pause = self._interval
            self._opened.clear()
            self._newest.clear()
            self._described_ids = frozenset()

    async def _look(self, watch: Watch) -> None:
        try:
            view = await watch.look()
            if frozenset(each.id for each in watch.answers) != self._described_ids:
                await self._describe()
            self._tell("view", page_view(view, watch.answers, watch.missing))
        except AioRpcError as error:  # it may come back
            is_lost = self._transport.state is State.CONNECTING
            lost = view_of([], {}, {}, self._transport.url)
            lost.trouble = self._transport.condition() if is_lost else str(error)
            self._tell("view", page_view(lost, (), ()))
            await asyncio.sleep(self._wait)
        except Exception:
            log.exception("the services could not be looked at")
            await asyncio.sleep(self._interval)

    async def _describe(self) -> None:
        """Ask the services to describe themselves, because their instances have changed."""
        answers = await self._asker.ask(Question.INFO, self._wait)
        infos = [each for each in answers if isinstance(each, Info)]
        self._described_ids = frozenset(each.id for each in infos)
        self._tell("services", described(infos))

    def _tell(self, kind: str, value: object) -> None:
        event = b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(value))
        if kind == "services" and event == self._newest.get(kind):
            return
        self._newest[kind] = event
        for page in self._pages:
            page.tell(kind, event)

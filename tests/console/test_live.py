"""The figures that open pages get, and when the console asks for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from aiorpc.config import Settings
from aiorpc.console import ConsoleServer
from aiorpc.console.app import ConsoleApp
from aiorpc.console.live import Live
from aiorpc.hosting.discovery.asking import Asker
from aiorpc.hosting.discovery.shapes import Question
from aiorpc.transports.base import State
from tests.support.waiting import eventually


class Shop:
    """Sells books."""

    name = "shop"
    version = "1.2"

    @rpc
    async def quote(self, title: str) -> str:
        """Return a price."""
        return "9.90"


class Page:
    """Reads the events of an open page."""

    def __init__(self, live: Live) -> None:
        self.events = live.events()
        self._waiting: list[tuple[str, Any]] = []

    async def next(self, kind: str) -> Any:
        """Return the data of the next event of *kind*."""
        async with asyncio.timeout(5):
            while True:
                while self._waiting:
                    name, data = self._waiting.pop(0)
                    if name == kind:
                        return data
                self._waiting = parsed(await anext(self.events))


def parsed(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for event in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        if "data" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
async def page(app: ConsoleApp) -> AsyncIterator[Page]:
    page = Page(app.live)
    yield page
    await page.events.aclose()


async def test_a_page_gets_services_and_their_figures(settings: Settings, page: Page) -> None:
    async with ServiceContainer(Shop, settings), ClusterRpcProxy(settings) as cluster:
        await cluster.shop.quote("Emma")
        (service,) = (await page.next("services"))["services"]
        view = await page.next("view")
        assert (service["name"], service["version"]) == ("shop", "1.2")
        assert service["description"] == "Sells books."
        (method,) = service["methods"]
        assert (method["name"], method["kind"], method["queue"]) == ("quote", "Rpc", "rpc-shop")
        assert method["description"] == "Return a price."
        (row,) = view["view"]["methods"]
        assert (row["calls"], row["queue"], row["consumers"]) == (1, 0, 1)
        assert row["callers"]["standalone_rpc_proxy.call"]["calls"] == 1
        (instance,) = view["instances"]
        assert instance["answers"] is True
        while row["calls_per_second"] is None:  # rates need two looks
            ((row,),) = [(await page.next("view"))["view"]["methods"]]


@pytest.mark.slow
async def test_a_new_instance_is_described_and_one_that_went_away_is_shown(
    settings: Settings, page: Page
) -> None:
    assert (await page.next("view"))["instances"] == []
    async with ServiceContainer(Shop, settings):
        services = await page.next("services")
        assert [each["name"] for each in services["services"]] == ["shop"]
        while not (view := await page.next("view"))["instances"]:
            pass
    while all(each["answers"] for each in view["instances"]):
        view = await page.next("view")
    assert [each["service"] for each in view["instances"]] == ["shop"]


@pytest.mark.slow
async def test_all_pages_share_one_look_and_none_is_made_without_a_page(
    app: ConsoleApp, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = Asker.ask

    async def counting(self: Asker, question: Question, *rest: Any) -> Any:
        asked.append(question)
        return await ask(self, question, *rest)

    monkeypatch.setattr(Asker, "ask", counting)
    await asyncio.sleep(0.2)  # as long as four looks take
    assert asked == []
    async with ServiceContainer(Shop, settings):
        pages = [Page(app.live) for _ in range(5)]
        for each in pages:
            await each.next("services")
        seen = asked.count(Question.STATS)
        for each in pages:
            await each.next("view")
        assert asked.count(Question.INFO) == 1
        assert asked.count(Question.STATS) <= seen + 2
    for each in pages:
        await each.events.aclose()
    await eventually(lambda: not app.live.is_looking)
    del asked[:]
    await asyncio.sleep(0.2)  # as long as four looks take
    assert asked == []


@pytest.mark.slow
async def test_a_slow_page_gets_the_newest_figures_only(
    app: ConsoleApp, settings: Settings
) -> None:
    async with ServiceContainer(Shop, settings):
        slow, quick = Page(app.live), Page(app.live)
        await slow.next("view")
        for _ in range(5):
            last = await quick.next("view")
        waiting = [data for name, data in parsed(await anext(slow.events)) if name == "view"]
        assert len(waiting) == 1
        assert waiting[0]["view"]["time"] >= last["view"]["time"]
        for each in (slow, quick):
            await each.events.aclose()


@pytest.mark.slow
async def test_a_lost_broker_is_told_and_the_looks_go_on(
    settings: Settings, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiorpc.exceptions import ConnectionLost

    async with ServiceContainer(Shop, settings):
        await page.next("view")
        with monkeypatch.context() as patch:

            async def lost(self: Asker, *given: Any) -> Any:
                raise ConnectionLost("there is no connection to memory://")

            patch.setattr(Asker, "ask", lost)
            while not (view := await page.next("view"))["view"]["trouble"]:
                pass
            assert view["view"]["trouble"] == "there is no connection to memory://"
        while (await page.next("view"))["view"]["trouble"]:
            pass


async def test_more_pages_than_the_console_serves_are_refused(
    app: ConsoleApp, reader: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.console.live.MOST_PAGES", 1)
    page = Page(app.live)
    await page.next("view")
    answer = await reader.get("/api/live")
    assert answer.status_code == 503
    await page.events.aclose()


async def test_the_console_serves_events_on_a_socket_and_ends_them_when_it_stops(
    settings: Settings,
) -> None:
    console = ConsoleServer(settings, "127.0.0.1:0", interval=0.05, wait=0.02)
    async with ServiceContainer(Shop, settings), httpx.AsyncClient() as client:
        async with console.open() as url:
            stream = client.stream("GET", f"{url}/api/live")
            response = await stream.__aenter__()
            assert response.headers["content-type"].startswith("text/event-stream")
            parts = response.aiter_bytes()
            body = b""
            while b"event: view" not in body:
                body += await anext(parts)
            ended = asyncio.create_task(read_all(parts))
        await asyncio.wait_for(ended, 5)
        await stream.__aexit__(None, None, None)


async def read_all(parts: AsyncIterator[bytes]) -> None:
    async for _ in parts:
        pass


async def test_the_connection_of_the_console_closes_at_its_end(console: ConsoleServer) -> None:
    async with console.application() as app:
        transport = app.live._transport
        assert transport.state is State.CONNECTED
    assert transport.state is State.CLOSED

"""Streams: which form they have, when dependencies close, and what a failure looks like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.responses import FileResponse, StreamingResponse

from aiorpc import DependencyProvider, ServiceContainer, WorkerContext
from aiorpc.http import ServerSentEvent, http, responses
from aiorpc.testing import entrypoint_hook, http_client
from tests.support.http import connected, serving

#: What happened in the service, in order.
happened: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_has_happened() -> None:
    happened.clear()


class Session(DependencyProvider[str]):
    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[str]:
        happened.append("opened")
        try:
            yield "session"
            happened.append("committed")
        except BaseException:
            happened.append("rolled back")
            raise


class Streams:
    name = "streams"
    session = Session()
    ending = asyncio.Event()

    @http("GET", "/text")
    async def text(self) -> AsyncIterator[str]:
        for part in ("one ", "zwö"):
            yield part
        happened.append(f"returned with {self.session}")

    @http("GET", "/bytes")
    async def content(self) -> AsyncIterator[bytes]:
        yield b"\x00"
        yield b"\x01"

    @http("GET", "/lines")
    async def lines(self) -> AsyncIterator[dict[str, int]]:
        for number in range(2):
            yield {"number": number}

    @http("GET", "/empty")
    async def empty(self) -> AsyncIterator[str]:
        for part in ():
            yield part

    @http("GET", "/events")
    async def events(self) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent({"a": 1}, event="sold", id="7", retry=500)
        yield ServerSentEvent("two\nlines")

    @http("GET", "/mixed")
    async def mixed(self, request: Any = None) -> Any:
        return 201, {"X-Shop": "a", "Content-Type": "text/csv"}, self._rows()

    async def _rows(self) -> AsyncIterator[str]:
        yield "a;b\n"
        happened.append(f"rows with {self.session}")

    @http("GET", "/starlette")
    async def starlette(self) -> StreamingResponse:
        return StreamingResponse(self._rows(), media_type="text/csv")

    @http("GET", "/file")
    async def file(self) -> FileResponse:
        return FileResponse(__file__)

    @http("GET", "/early", expected_exceptions=LookupError)
    async def early(self) -> AsyncIterator[str]:
        raise LookupError("no such book")
        yield ""

    @http("GET", "/late")
    async def late(self) -> AsyncIterator[str]:
        yield "one"
        raise OSError("disk")

    @http("GET", "/late-event", expected_exceptions=LookupError)
    async def late_event(self) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(1)
        raise LookupError("no such book")

    @http("GET", "/endless")
    async def endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            happened.append("closed")
            self.ending.set()

    @http("GET", "/waiting")
    async def waiting(self) -> AsyncIterator[ServerSentEvent]:
        await self.ending.wait()
        yield ServerSentEvent("done")


async def test_the_first_item_decides_the_form_of_a_stream() -> None:
    async with serving(Streams) as (_, client):

        async def answer(path: str) -> tuple[int, str, str]:
            response = await client.get(path)
            assert "content-length" not in response.headers
            return response.status_code, response.headers["content-type"], response.text

        assert await answer("/text") == (200, "text/plain; charset=utf-8", "one zwö")
        assert await answer("/bytes") == (200, "application/octet-stream", "\x00\x01")
        assert await answer("/lines") == (
            200,
            "application/x-ndjson",
            '{"number":0}\n{"number":1}\n',
        )
        assert await answer("/empty") == (200, "application/octet-stream", "")
        assert await answer("/events") == (
            200,
            "text/event-stream",
            'event: sold\nid: 7\nretry: 500\ndata: {"a":1}\n\ndata: two\ndata: lines\n\n',
        )
        assert await answer("/mixed") == (201, "text/csv", "a;b\n")
        assert await answer("/starlette") == (200, "text/csv; charset=utf-8", "a;b\n")
        assert (await client.get("/mixed")).headers["x-shop"] == "a"
        with open(__file__) as own:
            assert (await client.get("/file")).text == own.read()


async def test_dependencies_are_open_while_a_stream_runs_and_closed_before_its_end() -> None:
    async with serving(Streams) as (_, client):
        await client.get("/text")
        assert happened == ["opened", "returned with session", "committed"]
        happened.clear()
        await client.get("/starlette")
        assert happened == ["opened", "rows with session", "committed"]


async def test_an_error_before_the_first_item_is_a_problem() -> None:
    async with serving(Streams) as (_, client):
        response = await client.get("/early")
    assert (response.status_code, response.json()["detail"]) == (400, "no such book")
    assert happened == ["opened", "rolled back"]


async def test_an_error_in_a_stream_cuts_the_connection_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Streams) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await client.get("/late")
    assert happened == ["opened", "rolled back"]
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.name for record in errors] == ["aiorpc.worker"]
    assert "disk" in caplog.text


async def test_http_client_raises_for_a_stream_that_failed_as_a_socket_does() -> None:
    config = {"AMQP_URI": "memory://http-client", "WEB_SERVER_ADDRESS": None}
    async with ServiceContainer(Streams, config) as container, http_client(container) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await client.get("/late")
        assert (await client.get("/text")).text == "one zwö"


async def test_an_error_in_a_stream_of_events_is_its_last_event() -> None:
    async with serving(Streams) as (_, client):
        response = await client.get("/late-event")
    first, last, rest = response.text.split("\n\n")
    assert (first, rest) == ("data: 1", "")
    event, data = last.split("\n")
    assert event == "event: problem"
    assert json.loads(data.removeprefix("data: "))["detail"] == "no such book"


@pytest.mark.parametrize("path", ["/endless", "/text", "/file", "/starlette"])
async def test_head_gets_the_headers_of_a_stream(path: str) -> None:
    async with serving(Streams) as (_, client):
        response = await client.head(path)
    assert response.status_code == 200
    assert response.content == b""


async def test_a_client_that_hangs_up_closes_the_generator_and_rolls_back() -> None:
    Streams.ending = asyncio.Event()
    async with serving(Streams) as (_runner, client):
        async with client.stream("GET", "/endless") as response:
            async for _ in response.aiter_bytes():
                break
        async with asyncio.timeout(10):
            await Streams.ending.wait()
    assert happened == ["opened", "closed", "rolled back"]


async def test_a_client_that_hangs_up_ends_all_its_pipelined_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Streams.ending = asyncio.Event()
    async with serving(Streams) as (runner, _):
        async with connected(runner) as (reader, writer):
            for path in (b"/endless", b"/text", b"/waiting"):
                writer.write(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path)
            await reader.readline()
            writer.transport.abort()
        async with asyncio.timeout(10):
            await Streams.ending.wait()
    assert happened == ["opened", "closed", "rolled back"]
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []


async def test_a_slow_client_pauses_the_generator() -> None:
    Streams.ending = asyncio.Event()
    produced = 0

    class Counting:
        name = "counting"

        @http("GET", "/")
        async def get(self) -> AsyncIterator[bytes]:
            nonlocal produced
            while True:
                yield b"x" * 65536
                produced += 1
                await asyncio.sleep(0)

    async with serving(Counting) as (runner, _), connected(runner) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        before = -1
        while produced != before:  # until the buffers of both sides are full
            before = produced
            # A pause: the generator runs on as long as the buffers have room.
            await asyncio.sleep(0.2)
        assert produced * 65536 < 64 * 1024 * 1024
        await reader.read(65536)


async def test_a_silent_stream_of_events_sends_its_headers_and_comments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE", 0.02)
    Streams.ending = asyncio.Event()
    async with serving(Streams) as (_, client), client.stream("GET", "/waiting") as response:
        lines = response.aiter_lines()
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert await anext(lines) == ": keep-alive"
        Streams.ending.set()
        assert "data: done" in [line async for line in lines]


def test_a_line_break_in_the_id_of_an_event_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        ServerSentEvent("a", id="1\ndata: forged").encode()
    assert ServerSentEvent("a\rb\r\nc").encode() == b"data: a\ndata: b\ndata: c\n\n"


async def test_a_test_without_a_request_gets_the_items_of_a_stream() -> None:
    async with (
        serving(Streams) as (runner, _),
        entrypoint_hook(runner.containers[0], "lines") as lines,
    ):
        assert await lines() == [{"number": 0}, {"number": 1}]

"""The web server: routes, limits, connections, and how it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aiorpc import ConfigurationError, ServiceContainer, ServiceRunner
from aiorpc.http import HttpRequest, ServerSentEvent, http, requests, web_server
from aiorpc.testing import http_client
from tests.support.http import connected, read_response, serving


class Shop:
    name = "shop"
    begun = asyncio.Event()
    free = asyncio.Event()

    @http("GET,DELETE", "/books/<int:number>")
    async def book(self, number: int) -> int:
        return number

    @http("GET", "/books/<isbn>")
    async def isbn(self, isbn: str) -> str:
        return isbn

    @http("GET", "/books/new")
    async def new(self) -> str:
        return "the literal path"

    @http("POST", "/upload")
    async def upload(self, request: HttpRequest) -> int:
        parts = [part async for part in request.stream()]
        return sum(map(len, parts))

    @http("GET", "/slow")
    async def slow(self) -> str:
        Shop.begun.set()
        await Shop.free.wait()
        return "finished"

    @http("GET", "/folder/")
    async def folder(self) -> str:
        return "folder"

    @http("GET", "/feed")
    async def feed(self) -> AsyncIterator[ServerSentEvent]:
        while True:
            yield ServerSentEvent("tick")
            await Shop.free.wait()


class Other:
    name = "other"

    @http("GET", "/other")
    async def get(self) -> str:
        return "other"


class Conflicting:
    name = "conflicting"

    @http("POST,DELETE", "/books/{book_id:int}")
    async def delete(self, book_id: int) -> None: ...


@pytest.fixture(autouse=True)
def _events() -> None:
    Shop.begun, Shop.free = asyncio.Event(), asyncio.Event()


@pytest.fixture(params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "h11":
        monkeypatch.setitem(sys.modules, "aiorpc.http.parser", None)
    return str(request.param)


# Routes


async def test_an_unknown_path_method_or_spelling_is_answered_as_in_the_field() -> None:
    async with serving(Shop) as (_, client):

        async def answer(method: str, path: str) -> tuple[int, Any]:
            response = await client.request(method, path)
            fields = response.headers
            return response.status_code, fields.get("allow") or fields.get("location")

        assert await answer("GET", "/nowhere") == (404, None)
        assert await answer("PUT", "/books/7") == (405, "DELETE, GET, HEAD, OPTIONS")
        assert await answer("OPTIONS", "/books/7") == (204, "DELETE, GET, HEAD, OPTIONS")
        assert await answer("HEAD", "/books/7") == (200, None)
        assert await answer("GET", "/folder?a=%20b") == (308, "/folder/?a=%20b")
        assert await answer("GET", "/books/new/") == (308, "/books/new")
        assert await answer("GET", "//evil.example/") == (404, None)
        assert (await client.get("/books/new")).text == "the literal path"
        assert (await client.get("/books/x-1")).text == "x-1"
        assert (await client.get("/books/" + "9" * 5000)).text == "9" * 5000
        assert (await client.get("/books/a%C3%B6b")).text == "aöb"
        assert (await client.get("/books/a%FFb")).status_code == 400
        assert (await client.get("/books/a%EF%BF%BDb")).text == "a\ufffdb"


@pytest.mark.parametrize(
    ("methods", "url", "text"),
    [
        ("GET", "books", 'a path begins with "/"'),
        ("GET", "/<flot:a>", "there is no converter 'flot' (did you mean 'float'?)"),
        ("GET", "/<int(min=1):a>", "converters take no arguments"),
        ("GET", "/<a>/<a>", "two variables are named 'a'"),
        ("GET", "/<a>/{b}", "a bracket stands alone, or two spellings are mixed"),
        ("GET", "/a?b=<c>", "a path has no query"),
        ("GET", "/<1>", "'1' is no name of a parameter"),
        ("GET POST", "/", "the methods of @http are a string with commas"),
        (["GET"], "/", "the methods of @http are a string with commas"),
    ],
)
def test_a_wrong_route_is_refused_when_the_class_is_made(methods: Any, url: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        http(methods, url)
    assert text in str(raised.value)


def test_a_wrong_option_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(ConfigurationError, match="timeout of @http must be a number above 0"):
        http("GET", "/", timeout=0)
    with pytest.raises(ConfigurationError, match="wrong arguments of a decorator"):
        http("GET")


async def test_two_services_share_an_address_and_a_route_that_exists_twice_is_refused() -> None:
    async with serving(Shop, Other) as (runner, client):
        assert (await client.get("/other")).text == "other"
        assert (await client.get("/books/7")).text == "7"
        assert len({web_server(each) for each in runner.containers}) == 1
    with pytest.raises(ConfigurationError) as raised:
        async with serving(Shop, Other, Conflicting):
            pass
    text = str(raised.value)
    assert "shop.book" in text
    assert "conflicting.delete" in text
    assert "DELETE /books/" in text


async def test_a_route_that_exists_twice_in_one_class_is_refused_at_the_start() -> None:
    class Twice:
        name = "twice"

        @http("GET", "/")
        async def one(self) -> None: ...

        @http("GET,POST", "/")
        async def two(self) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"twice\.two and twice\.one have one route, GET /"
    ):
        async with serving(Twice):
            pass


async def test_a_service_that_stops_takes_its_routes_and_the_other_stays() -> None:
    async with serving(Shop, Other) as (runner, client):
        await runner.containers[0].stop()
        assert (await client.get("/books/7")).status_code == 404
        assert (await client.get("/other")).text == "other"


# Bodies and headers


async def test_a_body_up_to_the_limit_is_taken_whole_or_in_chunks(parser: str) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 1000):
            yield b"x" * 1000

    async with serving(Shop, HTTP_MAX_BODY=100_000) as (_, client):
        assert (await client.post("/upload", content=b"x" * 100_000)).json() == 100_000
        assert (await client.post("/upload", content=chunks(100_000))).json() == 100_000
        assert (await client.post("/upload")).json() == 0
        whole = await client.post("/upload", content=b"x" * 100_001)
        chunked = await client.post("/upload", content=chunks(300_000))
        assert (await client.get("/books/7")).text == "7"
    for response in (whole, chunked):
        assert response.status_code == 413
        assert "at most 100000 bytes" in response.json()["detail"]


async def test_a_client_is_told_before_it_sends_a_body_that_is_too_large(parser: str) -> None:
    async with (
        serving(Shop, HTTP_MAX_BODY=10) as (runner, _),
        connected(runner) as (reader, writer),
    ):
        writer.write(
            b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        head, _ = await read_response(reader)
    assert head.startswith("HTTP/1.1 413")


async def test_headers_above_the_limit_are_refused(parser: str) -> None:
    async with serving(Shop, HTTP_MAX_HEADERS=2048) as (runner, client):
        fine = {"x-long": "x" * 1500}
        assert (await client.get("/books/7", headers=fine)).status_code == 200
        async with connected(runner) as (reader, writer):
            head = b"GET /books/7 HTTP/1.1\r\nhost: a\r\nx-long: " + b"x" * 3000
            # h11 measures only headers that have not ended.
            writer.write(head + b"\r\n\r\n" if parser == "httptools" else head)
            answer = await reader.read()  # to its end: the server closes the connection
            assert answer.startswith(b"HTTP/1.1 431" if parser == "httptools" else b"HTTP/1.1 400")
        assert (await client.get("/books/7")).status_code == 200


async def test_headers_without_an_end_are_not_collected(parser: str) -> None:
    async with serving(Shop, HTTP_MAX_HEADERS=2048) as (runner, client):
        async with connected(runner) as (_, writer):
            writer.write(b"GET /books/7 HTTP/1.1\r\nhost: a\r\nx-long: ")

            async def send_more() -> None:
                for _ in range(1000):
                    writer.write(b"x" * 100_000)
                    await writer.drain()

            with pytest.raises(ConnectionError):
                await send_more()
        assert (await client.get("/books/7")).status_code == 200


async def test_a_client_that_sends_slowly_holds_no_worker(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Shop, max_workers=1) as (runner, client):
        async with connected(runner) as (reader, writer):
            writer.write(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
            await writer.drain()
            assert (await client.get("/books/7")).text == "7"
            writer.write(b"def")
            _, body = await read_response(reader)
            assert body == b"6"
        monkeypatch.setattr(requests, "_SILENCE", 0.05)
        async with connected(runner) as (reader, writer):
            writer.write(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
            head, _ = await read_response(reader)
            assert head.startswith("HTTP/1.1 408")
            assert await reader.read() == b""


async def test_a_client_that_hangs_up_while_it_sends_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Shop) as (runner, client):
        async with connected(runner) as (_, writer):
            writer.write(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
            await writer.drain()
            assert (await client.get("/books/7")).text == "7"
        assert (await client.get("/books/7")).text == "7"
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_bytes_that_are_no_http_are_refused_and_the_server_goes_on(parser: str) -> None:
    async with serving(Shop) as (runner, client):
        for rubbish in (b"\x00\xff\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
            async with connected(runner) as (reader, writer):
                writer.write(rubbish)
                assert (await reader.readline()).startswith(b"HTTP/1.1 4")
        assert (await client.get("/books/7")).text == "7"


async def test_an_upgrade_to_websockets_is_answered_as_a_request_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Shop) as (runner, _), connected(runner) as (reader, writer):
        upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        writer.write(b"GET /ws HTTP/1.1\r\nhost: a\r\n" + upgrade + b"\r\n")
        head, _ = await read_response(reader)
        assert head.startswith("HTTP/1.1 404")
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_one_connection_carries_many_requests_also_pipelined(parser: str) -> None:
    async with serving(Shop) as (runner, _), connected(runner) as (reader, writer):
        for number in (b"1", b"2"):
            writer.write(b"GET /books/%b HTTP/1.1\r\nhost: a\r\n\r\n" % number)
        assert [(await read_response(reader))[1] for _ in range(2)] == [b"1", b"2"]
        writer.write(b"GET /books/3 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert (await read_response(reader))[1] == b"3"
        assert await reader.read() == b""


# Start and stop


async def test_a_stop_finishes_requests_and_closes_idle_connections(parser: str) -> None:
    async with serving(Shop) as (runner, client):
        port = web_server(runner).port
        asked = asyncio.create_task(client.get("/slow"))
        async with connected(runner) as (reader, writer):
            writer.write(b"GET /books/7 HTTP/1.1\r\nhost: a\r\n\r\n")
            await read_response(reader)
            await Shop.begun.wait()
            stopping = asyncio.create_task(runner.stop())
            async with asyncio.timeout(10):
                assert await reader.read() == b""  # this connection was idle
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            Shop.free.set()
            assert (await asked).text == "finished"
            await stopping


async def test_a_request_past_shutdown_timeout_is_answered_with_503(parser: str) -> None:
    async with serving(Shop, SHUTDOWN_TIMEOUT=0.05) as (runner, client):
        asked = asyncio.create_task(client.get("/slow"))
        await Shop.begun.wait()
        await runner.stop()
        response = await asked
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response.headers["retry-after"] == "1"
    assert runner.overran


async def test_an_endless_stream_ends_with_the_service(parser: str) -> None:
    async with (
        serving(Shop, SHUTDOWN_TIMEOUT=0.05) as (runner, client),
        client.stream("GET", "/feed") as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == "data: tick"
        stopping = asyncio.create_task(runner.stop())
        assert "event: problem" in [line async for line in lines]
        await stopping


async def test_a_stop_does_not_wait_for_a_client_that_reads_nothing(parser: str) -> None:
    class Large:
        name = "large"

        @http("GET", "/")
        async def get(self) -> bytes:
            return b"x" * 50_000_000

    async with (
        serving(Large, CLEANUP_TIMEOUT=0.1) as (runner, _),
        connected(runner) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readline()
        async with asyncio.timeout(10):
            await runner.stop()


async def test_an_address_in_use_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            ConfigurationError, match=f"WEB_SERVER_ADDRESS {address}: cannot listen"
        ):
            async with serving(Shop, WEB_SERVER_ADDRESS=address):
                pass


async def test_the_address_may_be_of_ipv6_or_a_name() -> None:
    for address, url in (("[::1]:0", "http://[::1]:"), ("localhost:0", "http://")):
        async with serving(Shop, WEB_SERVER_ADDRESS=address) as (runner, client):
            assert web_server(runner).url.startswith(url)
            assert (await client.get("/books/7")).text == "7"


async def test_the_log_names_the_routes_and_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiorpc")
    async with serving(Other) as (runner, _):
        url = web_server(runner).url
    messages = [record.getMessage() for record in caplog.records]
    assert f"HTTP on {url}" in messages
    assert any("methods get (GET /other)" in message for message in messages)


async def test_uvicorn_leaves_signals_and_logging_alone() -> None:
    import signal

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    async with serving(Other):
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
        for name in ("uvicorn", "uvicorn.error"):
            assert logging.getLogger(name).propagate
            assert logging.getLogger(name).handlers == []


# Without a socket, and CORS


async def test_without_a_socket_a_test_sends_requests_with_httpx() -> None:
    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}", "WEB_SERVER_ADDRESS": None}
    async with ServiceContainer(Shop, config) as container:
        server = web_server(container)
        assert "DELETE" in " ".join(server.routes)
        with pytest.raises(RuntimeError, match="does not listen"):
            server.url  # noqa: B018
        async with http_client(container, headers={"x-a": "b"}) as client:
            assert (await client.get("/books/7")).text == "7"
            assert (await client.post("/upload", content=b"abc")).json() == 3
            assert (await client.get("/nowhere")).status_code == 404
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.get("/slow")
            assert container.running == 0  # the client's cancellation cancelled the method
    with pytest.raises(RuntimeError, match="does not run, or has no @http method"):
        http_client(container)


async def test_another_asgi_type_than_http_is_refused() -> None:
    async with serving(Other) as (runner, _):
        with pytest.raises(RuntimeError, match="not the ASGI type 'websocket'"):
            await web_server(runner)({"type": "websocket"}, None, None)


async def test_cors_answers_pages_of_the_configured_sites() -> None:
    cors = {"allow_origins": ["https://shop.example"], "allow_headers": ["x-user"], "max_age": 60}
    async with serving(Other, HTTP_CORS=cors) as (_, client):
        origin = {"origin": "https://shop.example"}
        asked = {**origin, "access-control-request-method": "GET"}
        preflight = await client.options("/other", headers=asked)
        simple = await client.get("/other", headers=origin)
        foreign = await client.get("/other", headers={"origin": "https://evil.example"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-max-age"] == "60"
    assert simple.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in foreign.headers
    with pytest.raises(ConfigurationError, match="unknown key 'origins' in HTTP_CORS"):
        ServiceRunner(Other, config={"AMQP_URI": "memory://", "HTTP_CORS": {"origins": ["*"]}})


async def test_without_cors_a_page_of_another_site_reads_nothing() -> None:
    async with serving(Other) as (_, client):
        response: httpx.Response = await client.get(
            "/other", headers={"origin": "https://a.example"}
        )
    assert not [name for name in response.headers if name.startswith("access-control")]

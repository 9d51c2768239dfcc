"""What the console answers, and what it changes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest

import aiorpc.console
from aiorpc import ServiceContainer, rpc
from aiorpc.config import Settings, resolve
from aiorpc.console import ConsoleServer
from aiorpc.console.app import ConsoleApp
from aiorpc.console.gate import HEADERS
from aiorpc.exceptions import ConnectionLost
from aiorpc.http import http
from aiorpc.management import ListedQueue, Management
from aiorpc.transports import open_transport
from tests.support.parked import Yard

PAGE = Path(aiorpc.console.__file__).with_name("page")


class Shop:
    name = "shop"
    called: list[Any]
    stopped: asyncio.Event

    @rpc
    async def quote(self, title: str, copies: int = 1) -> dict[str, Any]:
        self.called.append((title, copies))
        return {"title": title, "price": 9.9 * copies}

    @rpc
    async def fail(self) -> None:
        raise ValueError("<b>no</b> such title")

    @rpc
    async def titles(self, most: int) -> AsyncIterator[str]:
        for number in range(most):
            yield f"title {number}"

    @rpc
    async def stay(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()

    @rpc
    async def large(self) -> str:
        return "x" * (2 << 20)


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[type[Shop]]:
    Shop.called, Shop.stopped = [], asyncio.Event()
    async with ServiceContainer(Shop, settings):
        yield Shop


# --- rules 2 and 7


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/console.js", 200), ("/api/console", 200), ("/no", 404), ("/../app.py", 404)],
)
async def test_each_answer_has_the_headers_that_keep_a_browser_safe(
    reader: httpx.AsyncClient, path: str, status: int
) -> None:
    answer = await reader.get(path)
    assert answer.status_code == status
    assert HEADERS.items() <= dict(answer.headers).items()
    assert not [name for name in answer.headers if name.startswith("access-control")]
    refused = await reader.get(path, headers={"host": "evil.example"})
    assert refused.status_code == 421
    assert HEADERS.items() <= dict(refused.headers).items()


def test_the_policy_permits_no_inline_script_and_no_frame() -> None:
    policy = dict(each.split(" ", 1) for each in HEADERS["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["trusted-types"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"


def test_the_page_has_nothing_from_elsewhere_and_makes_no_html_of_texts() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
        assert not re.search(r"https?://|//cdn|@import|url\((?!#)", text), path
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc"
            r"|DOMParser|createContextualFragment",
            text,
        ), path
        assert path.suffix != ".html" or not re.search(r"<script>|\son\w+=|\sstyle=", text), path


async def test_a_console_that_shows_only_changes_nothing(
    settings: Settings, shop: type[Shop]
) -> None:
    console = ConsoleServer(settings, "127.0.0.1:8800")
    assert console.token is None
    async with console.application() as app:
        headers = {"origin": "http://127.0.0.1:8800", "aiorpc-console-token": ""}
        headers["aiorpc-console-page"] = "1"
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8800", headers=headers
        ) as client:
            assert (await client.get("/api/console")).json()["changes"] is False
            for path in ("/api/call", "/api/replay", "/api/token"):
                wish = {"service": "shop", "method": "quote", "args": ["Emma"]}
                answer = await client.post(path, json=wish)
                assert answer.status_code == 403
                assert "--allow-changes" in answer.json()["error"]
    assert shop.called == []


async def test_the_files_that_are_served_are_those_of_the_page(reader: httpx.AsyncClient) -> None:
    for path in PAGE.iterdir():
        answer = await reader.get(f"/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"]


# --- trying a method


async def test_a_method_is_called_with_the_token_only(
    changer: httpx.AsyncClient, shop: type[Shop]
) -> None:
    wish = {"service": "shop", "method": "quote", "kwargs": {"title": "Emma", "copies": 2}}
    refused = await changer.post("/api/call", json=wish, headers={"aiorpc-console-token": "no"})
    assert (refused.status_code, shop.called) == (401, [])
    answer = await changer.post("/api/call", json=wish)
    assert answer.json()["result"] == {"title": "Emma", "price": 19.8}
    assert answer.json()["milliseconds"] > 0
    assert shop.called == [("Emma", 2)]
    assert (await changer.post("/api/token", json={})).json() == {}


@pytest.mark.parametrize(
    ("wish", "error", "text", "remote"),
    [
        ({"method": "fail"}, "ValueError", "<b>no</b> such title", True),
        ({"method": "quote", "args": [7]}, "BadArguments", "title", False),
        ({"method": "quote"}, "IncorrectSignature", "title", False),
        ({"method": "nothing"}, "MethodNotFound", "nothing", False),
        ({"service": "none", "method": "quote"}, "UnknownService", "none", False),
        ({"method": "stay", "timeout": 0.05}, "RpcTimeout", "within", False),
        ({"method": "quote", "args": ["Emma"], "stream": True}, "IncorrectSignature", "", False),
    ],
)
async def test_an_error_says_what_it_is(
    changer: httpx.AsyncClient,
    shop: type[Shop],
    wish: dict[str, Any],
    error: str,
    text: str,
    *,
    remote: bool,
) -> None:
    answer = (await changer.post("/api/call", json={"service": "shop", **wish})).json()
    assert answer["error"] == error
    assert text in answer["text"]
    assert answer.get("remote", False) is remote


async def test_the_first_items_of_a_stream_are_shown(
    changer: httpx.AsyncClient, shop: type[Shop]
) -> None:
    wish = {"service": "shop", "method": "titles", "stream": True}
    short = (await changer.post("/api/call", json={**wish, "args": [2]})).json()
    assert (short["result"], short.get("more")) == (["title 0", "title 1"], None)
    long = (await changer.post("/api/call", json={**wish, "args": [1000]})).json()
    assert (len(long["result"]), long["more"]) == (100, True)


async def test_a_large_result_is_cut(changer: httpx.AsyncClient, shop: type[Shop]) -> None:
    answer = (await changer.post("/api/call", json={"service": "shop", "method": "large"})).json()
    assert answer["more"] is True
    assert 0 < len(answer["result"]) <= 1 << 20


async def test_a_page_that_goes_away_cancels_its_call(
    app: ConsoleApp, console: ConsoleServer, shop: type[Shop]
) -> None:
    body = b'{"service": "shop", "method": "stay"}'
    received = [{"type": "http.request", "body": body}]
    headers = {
        "host": "127.0.0.1:8800",
        "origin": "http://127.0.0.1:8800",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "aiorpc-console-token": console.token or "",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/call",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return received.pop() if received else {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    await asyncio.wait_for(shop.stopped.wait(), 5)
    assert sent == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/call", "nonsense", 400),
        ("/api/call", '{"service": "shop"}', 400),
        ("/api/call", '{"service": "shop", "method": "quote", "more": 1}', 400),
        ("/api/call", '{"service": "shop", "method": "quote", "timeout": -1}', 400),
        ("/api/call", '{"service": "shop", "method": "quote", "timeout": 0}', 400),
        ("/api/call", '{"service": "shop", "method": "quote", "timeout": 300.5}', 400),
        ("/api/replay", '{"queue": "shop"}', 400),
        ("/api/replay", '{"queue": "shop", "all": true, "messages": ["a"]}', 400),
        ("/api/replay", '{"queue": "shop", "all": true}', 409),
        ("/api/replay", '{"queue": "*", "all": true}', 409),
        ("/api/no", "{}", 404),
        ("/api/call", f'"{"x" * (1 << 20)}"', 413),
    ],
)
async def test_a_wrong_change_is_refused(
    changer: httpx.AsyncClient, path: str, body: str, status: int
) -> None:
    json = {"content-type": "application/json"}
    answer = await changer.post(path, content=body, headers=json)
    assert answer.status_code == status
    assert answer.json()["error"]


async def test_a_wrong_timeout_is_an_error_that_says_its_range(
    changer: httpx.AsyncClient, shop: type[Shop]
) -> None:
    wish = {"service": "shop", "method": "quote", "args": ["Emma"], "timeout": -1}
    answer = await changer.post("/api/call", json=wish)
    assert "timeout is -1, and must be more than 0 and at most 300 s" in answer.json()["error"]
    assert (answer.status_code, shop.called) == (400, [])


# --- what a service promises


@dataclass
class Key:
    teeth: str = "4-2-4"
    password: str = "hunter2"
    source: str = "ftp://ada:hunter2@keys.example/"
    metal: str = "brass"


class Notes(TypedDict):
    lines: list[Key]


class Vault:
    """Keeps secrets."""

    name = "vault"

    @rpc(sensitive_arguments="pin")
    async def open(self, door: str, pin: str = "4711", token: str = "t-1", tries: int = 3) -> bool:
        """Open a door.

        It stays open for a minute.
        """
        return True

    @rpc(sensitive_arguments="key.teeth")
    async def copy(self, key: Key, notes: Notes) -> Key:
        return key

    @http("GET", "/doors")
    async def doors(self, api_key: str = "k-1") -> None:
        """List the doors."""


async def test_a_service_tells_what_its_methods_take(
    app: ConsoleApp, reader: httpx.AsyncClient, settings: Settings
) -> None:
    async with ServiceContainer(Vault, settings):
        looks = app.live.events()  # looks at the same time
        await anext(looks)
        promised = (await reader.get("/api/contract", params={"service": "vault"})).json()
        await looks.aclose()
    _, method = promised["service"]["methods"]
    assert "stays open for a minute" in method["description"]
    assert [each["name"] for each in method["parameters"]] == ["door", "pin", "token", "tries"]
    assert method["parameters"][0]["schema"] == {"type": "string"}
    hidden = ["x-aiorpc-hidden-default" in each["schema"] for each in method["parameters"]]
    assert hidden == [False, True, True, False]
    assert method["parameters"][3]["schema"]["default"] == 3
    assert method["sensitive"] == ["pin"]
    fields = promised["schemas"]["Key"]["properties"]
    assert {name: each.get("default", "hidden") for name, each in fields.items()} == {
        "teeth": "hidden",
        "password": "hidden",
        "source": "hidden",
        "metal": "brass",
    }
    for secret in ("4711", "t-1", "4-2-4", "hunter2", "k-1"):
        assert secret not in json.dumps(promised)


async def test_a_service_that_tells_nothing_says_why(
    reader: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised = (await reader.get("/api/contract", params={"service": "none"})).json()
    assert promised["service"] is None
    assert promised["why"] == (
        "no contract came within 0.02 s. Services of Nameko and of an earlier aiorpc send none"
    )
    monkeypatch.setattr("aiorpc.hosting.discovery.answering.LARGEST", 100)
    async with ServiceContainer(Vault, settings):
        promised = (await reader.get("/api/contract", params={"service": "vault"})).json()
        assert promised["why"] == "its contract is too large for one message"


# --- parked messages


@pytest.fixture
async def yard(app: ConsoleApp, settings: Settings) -> AsyncIterator[Yard]:
    async with open_transport(settings) as transport:
        yard = Yard(transport)
        await yard.declare()
        yield yard


async def test_parked_messages_are_counted_and_read(reader: httpx.AsyncClient, yard: Yard) -> None:
    await yard.park(b'{"n": 1}', b'{"n": 2}')
    seen = (await reader.get("/api/parked/messages", params={"queue": yard.source})).json()
    assert (seen["look"]["messages"], seen["look"]["read"], seen["cost"]) == (2, 2, "")
    assert [each["count"] for each in seen["look"]["groups"]] == [2]
    assert len(seen["look"]["rows"]) == 2
    assert await yard.bodies(yard.parked) == [b'{"n": 1}', b'{"n": 2}']  # all were given back


async def test_the_parked_queues_of_a_service_are_found(
    reader: httpx.AsyncClient, shop: type[Shop], yard: Yard
) -> None:
    found = (await reader.get("/api/parked")).json()
    assert found["queues"] == []
    assert "--management" in found["incomplete"]
    yard.parked = yard.queues[1] = "rpc-shop.parked"
    await yard.declare()
    await yard.park(b"{}")
    found = (await reader.get("/api/parked")).json()
    assert [(each["name"], each["messages"]) for each in found["queues"]] == [(yard.parked, 1)]


async def test_the_management_api_lists_all_parked_queues(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://guest:hunter2@localhost:15672"
    console = ConsoleServer(settings, "127.0.0.1:8800", management=url)
    async with open_transport(settings) as transport, console.application() as app:
        yard = Yard(transport)
        await yard.declare()
        await yard.park(b"{}")

        async def queues(self: Management, vhost: str) -> list[ListedQueue]:
            return [ListedQueue(name) for name in yard.queues]

        monkeypatch.setattr(Management, "queues", queues)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1:8800",
            headers={"aiorpc-console-page": "1"},
        ) as client:
            found = (await client.get("/api/parked")).json()
            facts = (await client.get("/api/console")).text
    assert [each["name"] for each in found["queues"]] == [yard.parked]
    assert found["incomplete"] == ""
    assert "hunter2" not in facts


async def test_a_shown_message_has_no_secrets(reader: httpx.AsyncClient, yard: Yard) -> None:
    body = b'{"args": [], "kwargs": {"card": "4111", "api_key": "k-1", "title": "Emma"}}'
    await yard.park(body, sensitive=[["kwargs", "card"]], headers={"nameko.password": "hunter2"})
    looked = (await reader.get("/api/parked/messages", params={"queue": yard.parked})).text
    (row,) = re.findall(r'"id":"(\w+)"', looked)[:1]
    query = {"queue": yard.parked, "message": row}
    text = (await reader.get("/api/parked/message", params=query)).text
    assert "Emma" in text
    for secret in ("4111", "k-1", "hunter2"):
        assert secret not in looked + text


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/api/parked/messages", {}, 400),
        ("/api/parked/message", {"queue": "rpc-shop"}, 400),
        ("/api/parked/messages", {"queue": "no"}, 409),
        ("/api/parked/messages", {"queue": "rpc-*"}, 409),
        ("/api/parked/messages", {"queue": "x" * 300}, 409),
    ],
)
async def test_a_wrong_look_is_refused(
    reader: httpx.AsyncClient, path: str, query: dict[str, str], status: int
) -> None:
    assert (await reader.get(path, params=query)).status_code == status


async def test_only_parked_queues_are_read(reader: httpx.AsyncClient, yard: Yard) -> None:
    """The messages of another queue belong to its consumers."""
    await yard.park(b"{}")
    seen = (await reader.get("/api/parked/messages", params={"queue": yard.source})).json()
    assert seen["look"]["queue"] == yard.parked


async def test_chosen_messages_are_replayed(changer: httpx.AsyncClient, yard: Yard) -> None:
    await yard.park(b'{"n": 1}', b'{"n": 2}', b'{"n": 3}')
    seen = (await changer.get("/api/parked/messages", params={"queue": yard.parked})).json()
    second = seen["look"]["rows"][1]["id"]
    wish = {"queue": yard.parked, "messages": [second, "gone"]}
    refused = await changer.post("/api/replay", json=wish, headers={"aiorpc-console-token": ""})
    assert refused.status_code == 401
    assert await yard.bodies(yard.source) == []
    settled = (await changer.post("/api/replay", json=wish)).json()
    assert (settled["done"], settled["missing"]) == (1, ["gone"])
    assert await yard.bodies(yard.source) == [b'{"n": 2}']
    assert await yard.bodies(yard.parked) == [b'{"n": 1}', b'{"n": 3}']
    settled = (await changer.post("/api/replay", json={"queue": yard.parked, "all": True})).json()
    assert settled["done"] == 2
    assert await yard.bodies(yard.parked) == []


async def test_one_page_replays_at_a_time(changer: httpx.AsyncClient, yard: Yard) -> None:
    await yard.park(b'{"n": 1}')
    wish = {"queue": yard.parked, "all": True}
    answers = await asyncio.gather(*(changer.post("/api/replay", json=wish) for _ in range(2)))
    assert [each.status_code for each in answers] == [200, 409]
    assert "another page reads or replays" in answers[1].json()["error"]
    assert await yard.bodies(yard.source) == [b'{"n": 1}']


async def test_a_replay_from_a_broker_that_does_not_answer_says_so(
    changer: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stays_silent(*given: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("aiorpc.console.parking.find_queues", stays_silent)
    monkeypatch.setattr("aiorpc.console.parking.LOOKING", 0.01)
    answer = await changer.post("/api/replay", json={"queue": "mailer.parked", "all": True})
    assert answer.status_code == 503
    assert "did not show its parked messages" in answer.json()["error"]


async def test_a_queue_that_counts_looks_is_not_read(rabbitmq_uri: str) -> None:
    """RabbitMQ before 4.3 would delete a message after some looks."""
    console = ConsoleServer(resolve(rabbitmq_uri), "127.0.0.1:8800", allow_changes=True)
    async with open_transport(resolve(rabbitmq_uri)) as transport, console.application() as app:
        yard = Yard(transport, **{"x-queue-type": "quorum", "x-delivery-limit": 2})
        await yard.declare()
        try:
            await yard.park(b"{}")
            async with transport.reader(yard.parked) as reader:
                counts = (await reader.cost()).counts
            headers = {
                "origin": "http://127.0.0.1:8800",
                "aiorpc-console-page": "1",
                "aiorpc-console-token": console.token or "",
            }
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://127.0.0.1:8800",
                headers=headers,
            ) as client:
                query = {"queue": yard.parked}
                for _ in range(5):
                    seen = (await client.get("/api/parked/messages", params=query)).json()
                    assert (seen["look"]["messages"], seen["look"]["read"]) == (1, not counts)
                    assert ("counts each look" in seen["cost"]) is counts
                if counts:
                    query["message"] = "1"
                    answer = await client.get("/api/parked/message", params=query)
                    assert answer.status_code == 409
                    assert "which asks first" in answer.json()["error"]
                    wish = {"queue": yard.parked, "all": True}
                    assert (await client.post("/api/replay", json=wish)).status_code == 409
            assert await yard.count(yard.parked) == 1
        finally:
            for queue in yard.queues:
                await transport.delete(queue)


# --- rule 9


async def test_no_error_has_the_password_of_the_broker(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.console.server.CONNECT_TIMEOUT", 0.2)
    uri = f"amqp://ada:hunter2@127.0.0.1:{closed_port}/"
    console = ConsoleServer(Settings(amqp_uri=uri), "127.0.0.1:0")
    with pytest.raises(ConnectionLost) as caught:
        async with console.application():
            pass
    assert "ada" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_fault_of_the_console_tells_nothing(
    app: ConsoleApp, reader: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*given: object) -> None:
        raise KeyError("hunter2")

    monkeypatch.setattr(app, "_look", broken)
    answer = await reader.get("/api/console")
    assert answer.status_code == 500
    assert answer.json() == {"error": "The console failed. Its log has the reason"}

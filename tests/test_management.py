"""The client of the management API: URLs, errors, pages and the clock."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from aiorpc.config import resolve
from aiorpc.exceptions import ConfigurationError, ConnectionLost
from aiorpc.management import Management, ManagementRefused
from tests.support.management import fake_api

SETTINGS = resolve("amqp://shop:secret@broker/")


async def test_queues_come_from_all_pages() -> None:
    page = {"page_count": 3, "items": [{"name": "a", "effective_policy_definition": []}]}
    with fake_api({"queues/%2F": page}) as url:
        queues = await Management(url, SETTINGS).queues("/")
    assert [each.name for each in queues] == ["a", "a", "a"]
    assert queues[0].policies == {}
    assert queues[0].given == {}


async def test_a_name_with_a_slash_is_encoded() -> None:
    with fake_api({"queues/a%2Fb/c%2Fd/bindings": ["it"]}) as url:
        assert await Management(url, SETTINGS).get("queues", "a/b", "c/d", "bindings") == ["it"]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_refusal_names_the_status(status: int) -> None:
    text = f"refuses nodes with the status {status}"
    with fake_api({}, status=status) as url, pytest.raises(ManagementRefused, match=text) as e:
        await Management(url, SETTINGS).get("nodes")
    assert e.value.status == status


async def test_nobody_answers() -> None:
    with pytest.raises(ConnectionLost, match=r"http://127\.0\.0\.1:1 cannot be asked: .*refused"):
        await Management("http://127.0.0.1:1", SETTINGS).get("nodes")


async def test_something_else_answers() -> None:
    with fake_api({"nodes": b"<html>"}) as url, pytest.raises(ConfigurationError, match="does not"):
        await Management(url, SETTINGS).get("nodes")


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"page_count": "x", "items": []}, {"page_count": 1, "items": [{"name": 1}]}],
)
async def test_queues_in_another_shape_are_an_error(answer: object) -> None:
    with (
        fake_api({"queues/%2F": answer}) as url,
        pytest.raises(ConfigurationError, match="does not answer as RabbitMQ's management API"),
    ):
        await Management(url, SETTINGS).queues("/")


async def test_the_last_page_of_queues_is_an_empty_one_too() -> None:
    with fake_api({"queues/%2F": {"page_count": 10**9, "items": []}}) as url:
        assert await Management(url, SETTINGS).queues("/") == []


async def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiorpc.management.WHOLE", 0.2)
    ended = threading.Event()

    def answer() -> None:
        connection, _ = api.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.05):  # each step is shorter than TIMEOUT
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as api:
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionLost, match="no answer in time"):
            await Management(f"http://127.0.0.1:{api.getsockname()[1]}", SETTINGS).get("nodes")
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    "url", ["", "localhost:15672", "amqp://localhost/", "http://", "http://host:x", "http://[::1"]
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the URL of a management API"):
        Management(url, SETTINGS)


def test_no_text_has_the_password() -> None:
    for url in ("http://shop:pa55@host", "ftp://shop:pa55@host", "http://shop:pa55@host:x"):
        try:
            text = Management(url, SETTINGS).url
        except ConfigurationError as error:
            text = str(error)
        assert "pa55" not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host", "http://host:15672"),
        ("https://host/", "https://host:15671"),
        ("http://u:p@host:80/rabbit/api/", "http://host:80/rabbit"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_the_url_has_a_default_port_and_may_have_a_path(url: str, shown: str) -> None:
    assert Management(url, SETTINGS).url == shown


async def test_the_clock_of_the_host() -> None:
    with fake_api({}, date=datetime.now(UTC) - timedelta(seconds=60)) as url:
        ahead, exact_to = await Management(url, SETTINGS).ahead()
    assert ahead == pytest.approx(-60, abs=exact_to + 0.1)
    assert exact_to < 5


async def test_an_api_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiorpc.management.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConnectionLost, match="no answer in time"):
            await Management(url, SETTINGS).get("nodes")
    assert time.monotonic() - began < 5

"""``aiorpc console``: what it prints, where it listens, and its exit codes."""

from __future__ import annotations

import logging
import re
import signal
import sys

import httpx
import pytest

from aiorpc.console import server
from tests.support.command_line import Project, Started, invoke


def test_it_serves_the_page_until_a_signal(project: Project, rabbitmq_uri: str) -> None:
    asked = ("console", "--bind", "127.0.0.1:0", "--broker", rabbitmq_uri)
    with Started(*asked, cwd=project.directory) as process:
        url = process.waits_for("http://127.0.0.1:")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert "aiorpc console" in httpx.get(f"{url}/").text
        facts = httpx.get(f"{url}/api/console", headers={"aiorpc-console-page": "1"}).json()
        assert facts["changes"] is False
        assert "***" in facts["broker"]
        process.signal(signal.SIGTERM)
        assert process.ends() == 143
        assert process.output.splitlines() == [url]


def test_it_prints_the_token_and_warns_of_an_address_that_others_reach(
    project: Project, rabbitmq_uri: str
) -> None:
    asked = ("console", "--bind", "0.0.0.0:0", "--allow-changes", "--broker", rabbitmq_uri)
    with Started(*asked, cwd=project.directory) as process:
        line = process.waits_for("/#token=")
        process.waits_for("everybody who reaches this address")
        url, _, token = line.partition("/#token=")
        assert len(token) >= 32
        headers = {"origin": url, "aiorpc-console-token": token}
        assert httpx.post(f"{url}/api/token", json={}, headers=headers).status_code == 200
        headers["aiorpc-console-token"] = token[:-1]
        assert httpx.post(f"{url}/api/token", json={}, headers=headers).status_code == 401
        process.presses_ctrl_c()
        assert process.ends() == 0


def test_memory_is_refused() -> None:
    done = invoke("console", "--broker", "memory://")
    assert done.code == 2
    assert "`aiorpc console` finds no service" in done.error


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--bind", "8800.1"), "--bind must be [address:]port"),
        (("--management", "localhost:15672"), "is not the URL of a management API"),
    ],
)
def test_a_wrong_option_is_refused(words: tuple[str, ...], text: str) -> None:
    done = invoke("console", *words, "--broker", "amqp://127.0.0.1:1/")
    assert done.code == 2
    assert text in done.error


def test_a_broker_that_is_not_there_exits_5(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECT_TIMEOUT", 0.2)
    broker = f"amqp://ada:hunter2@127.0.0.1:{closed_port}/"
    done = invoke("console", "--bind", "127.0.0.1:0", "--broker", broker)
    assert done.code == 5
    assert "no connection to" in done.error
    assert "hunter2" not in done.stderr


def test_its_log_shows_what_failed() -> None:
    invoke("console", "--bind", "8800.1", "--broker", "amqp://127.0.0.1:1/")
    assert logging.getLogger("aiorpc.console").getEffectiveLevel() == logging.WARNING


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        each for each in sys.modules if each.startswith(("aiorpc.console", "aiorpc.http"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = invoke("console", "--broker", "amqp://127.0.0.1:1/")
    assert done.code == 2
    assert 'pip install "aiorpc-amqp[http]"' in done.error

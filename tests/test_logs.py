"""What peers send cannot write lines of its own into the log."""

from __future__ import annotations

import io
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from aiorpc import (
    AioRpcError,
    ClusterRpcProxy,
    MethodNotFound,
    RemoteError,
    ServiceContainer,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.logs import MOST, counted, logger, one_line
from tests.support.waiting import eventually

FORGED = "\n2026-01-01 CRITICAL root: forged"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("déjà vu 中", "déjà vu 中"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x1b[31m\x00\u2028\u202e\ud800", "\\x1b[31m\\x00\\u2028\\u202e\\ud800"),
        ("x" * (MOST + 1), f"{'x' * MOST}... ({MOST + 1} characters)"),
    ],
)
def test_text_becomes_one_bounded_line(text: str, escaped: str) -> None:
    assert one_line(text) == escaped


@pytest.mark.parametrize(
    ("number", "word", "text"),
    [
        (0, "message", "0 messages"),
        (1, "message", "1 message"),
        (12_000, "message", "12,000 messages"),
        (2, "address", "2 addresses"),
    ],
)
def test_a_number_of_things_has_its_plural_and_groups_of_digits(
    number: int, word: str, text: str
) -> None:
    assert counted(number, word) == text


def test_a_log_line_is_one_line_and_keeps_its_arguments_where_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = logger("aiorpc.example")
    log.warning("%s and %d", f"a{FORGED}", 1)
    log.warning("%s and %d", "a", 1)
    odd, usual = caplog.records
    assert odd.getMessage() == "a\\n2026-01-01 CRITICAL root: forged and 1"
    assert (usual.msg, usual.args) == ("%s and %d", ("a", 1))


def test_the_lines_of_an_error_are_indented_in_its_traceback(written: io.StringIO) -> None:
    try:
        try:
            raise ValueError(f"cause{FORGED}")
        except ValueError as cause:
            raise RuntimeError(f"effect{FORGED}\x1b[31m") from cause
    except RuntimeError:
        logger("aiorpc.example").exception("failed")
    text = written.getvalue()
    assert "ValueError: cause\n    | 2026-01-01 CRITICAL root: forged\n" in text
    assert "RuntimeError: effect\n    | 2026-01-01 CRITICAL root: forged\\x1b[31m\n" in text
    assert 'raise ValueError(f"cause{FORGED}")' in text


async def test_names_and_errors_of_peers_write_no_lines(
    broker_config: dict[str, Any], written: io.StringIO
) -> None:
    config = {**broker_config, "AUTO_DELETE_EVENT_EXCHANGES": True}
    service_name = f"logs_{uuid.uuid4().hex[:8]}"

    class Service:
        name = service_name

        @rpc
        async def fail(self, text: str) -> None:
            raise ValueError(text)

        @event_handler(service_name, "#", reliable_delivery=False)
        async def handle(self, number: int) -> None: ...

    async with (
        ServiceContainer(Service, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
        event_dispatcher(config) as dispatch,
    ):
        with pytest.raises(MethodNotFound):
            await cluster[service_name][f"method{FORGED}"]()
        with pytest.raises(RemoteError) as remote:
            await cluster[service_name].fail(FORGED)
        assert remote.value.value == FORGED  # the caller gets the words of the method
        with pytest.raises(AioRpcError):
            await cluster[service_name].fail(**{f"text{FORGED}": 1})
        await dispatch(service_name, f"sold{FORGED}", "no number")
        await eventually(lambda: "is rejected" in written.getvalue())
    assert written.getvalue().count("forged") >= 4
    assert not [line for line in written.getvalue().splitlines() if line.startswith("2026")]

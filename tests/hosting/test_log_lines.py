"""The log lines of ended calls, and the fields that name the running call."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiorpc import (
    CallLogFilter,
    ClusterRpcProxy,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    event_dispatcher,
    event_handler,
    rpc,
)
from tests.support.waiting import eventually

own = logging.getLogger("tests.shop")
worker = logging.getLogger("aiorpc.worker")


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}", "max_workers": 1}


class Shop:
    name = "log.shop"  # the name of a service may have dots

    @rpc
    async def quote(self, title: str) -> str:
        own.warning("quoting %s", title)
        asyncio.get_running_loop().call_soon(own.warning, "later")
        return "9.90"

    @rpc
    def in_a_thread(self) -> None:
        own.warning("in a thread")

    @rpc
    async def fails(self) -> None:
        json.loads("{")

    @rpc
    async def slow(self) -> None:
        await asyncio.Event().wait()


class Lines(logging.Handler):
    """Formats each record as a handler of a user's with the filter would."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(service)s|%(method)s|%(call_id)s|%(message)s"))
        self.addFilter(CallLogFilter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler.lines
    root.removeHandler(handler)


def with_text(lines: list[str], text: str) -> list[str]:
    (line,) = [line for line in lines if text in line]
    return line.split("|")


async def test_records_have_the_fields_of_the_running_call(
    config: dict[str, Any], lines: list[str]
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config, timeout=5) as cluster:
        await cluster["log.shop"].quote("Emma")
        await cluster["log.shop"].in_a_thread()
        with pytest.raises(RemoteError):
            await cluster["log.shop"].fails()
    own.warning("outside")
    for text, method in (
        ("quoting Emma", "quote"),
        ("later", "quote"),
        ("in a thread", "in_a_thread"),
        ("raised JSONDecodeError", "fails"),
    ):
        service, named, call_id, _ = with_text(lines, text)
        assert (service, named) == ("log.shop", method)
        assert call_id.startswith(f"log.shop.{method}.")
    assert with_text(lines, "outside")[:3] == ["", "", ""]


async def test_lines_about_refused_requests_and_events_have_the_fields_of_their_method(
    config: dict[str, Any], lines: list[str]
) -> None:
    source = uuid.uuid4().hex

    class Refusing:
        name = "log.refusing"

        @rpc
        async def double(self, number: int) -> int:
            return number

        @rpc
        async def large(self) -> str:
            return "x" * 5000

        @event_handler(source, "sold")
        async def sold(self, number: int) -> None: ...

    limited = {**config, "MAX_MESSAGE_SIZE": 4096}
    worker.setLevel(logging.DEBUG)
    try:
        async with (
            ServiceContainer(Refusing, limited),
            ClusterRpcProxy(config, timeout=5) as cluster,
            event_dispatcher(config) as dispatch,
        ):
            remote = cluster["log.refusing"]
            for call in (remote.dubble(1), remote.double("1"), remote.large()):
                with pytest.raises(Exception, match=r"dubble|number|5026 bytes"):
                    await call
            await dispatch(source, "sold", "a text")
            await eventually(lambda: any("cannot be read" in line for line in lines))
    finally:
        worker.setLevel(logging.NOTSET)
    for text, method in (
        ("MethodNotFound", "dubble"),
        ("BadArguments", "double"),
        ("the result could not be sent: ", "large"),
        ("event sold of queue", "sold"),
    ):
        service, named, call_id, _ = with_text(lines, text)
        assert (service, named) == ("log.refusing", method)
        assert bool(call_id) == (method == "large")
    ended = with_text(lines, "log.refusing.large ended after")[3]
    assert ": returned, but the result could not be sent (call id" in ended


async def test_the_line_of_a_call_that_expired_before_it_ran_has_the_fields_too(
    config: dict[str, Any], lines: list[str]
) -> None:
    config["PREFETCH_COUNT"] = 10
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        running = cluster["log.shop"].slow.call_async()
        with pytest.raises(RpcTimeout):
            await cluster["log.shop"].quote.with_options(timeout=0.05)("Emma")
        running.cancel()
        await eventually(lambda: any("past its deadline" in line for line in lines))
    service, method, call_id, _ = with_text(lines, "past its deadline")
    assert (service, method) == ("log.shop", "quote")
    assert call_id.startswith("log.shop.quote.")


def test_a_field_that_a_record_has_stays() -> None:
    record = logging.makeLogRecord({"service": "billing"})
    assert CallLogFilter().filter(record)
    assert (vars(record)["service"], vars(record)["call_id"]) == ("billing", "")


async def test_an_ended_call_has_a_line_at_debug(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config, timeout=5) as cluster:
        await cluster["log.shop"].quote("silent")
        with caplog.at_level(logging.DEBUG, "aiorpc.worker"):
            await cluster["log.shop"].quote("Emma")
            with pytest.raises(RemoteError):
                await cluster["log.shop"].fails()
    records = [each for each in caplog.records if each.levelno == logging.DEBUG]
    ended = [each.getMessage() for each in records if each.name == "aiorpc.worker"]
    assert len(ended) == 2
    assert ended[0].startswith("log.shop.quote ended after 0.0")
    assert "s: returned (call id log.shop.quote." in ended[0]
    assert "s: JSONDecodeError (call id log.shop.fails." in ended[1]


async def test_an_event_has_a_line_at_debug_too(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    handled = asyncio.Event()

    class Stock:
        name = "stock"

        @event_handler("shop", "sold")
        async def reduce(self, payload: str) -> None:
            handled.set()

    with caplog.at_level(logging.DEBUG, "aiorpc.worker"):
        async with ServiceContainer(Stock, config):
            async with event_dispatcher(config) as dispatch:
                await dispatch("shop", "sold", "Emma")
            await asyncio.wait_for(handled.wait(), 5)
    assert "stock.reduce ended after" in caplog.text


async def test_a_traceback_has_no_frames_of_libraries(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config, timeout=5) as cluster:
        with pytest.raises(RemoteError):
            await cluster["log.shop"].fails()
        short = caplog.text
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "aiorpc.worker"), pytest.raises(RemoteError):
            await cluster["log.shop"].fails()
    assert 'json.loads("{")' in short
    assert "raise JSONDecodeError" in short or "json/decoder.py" in short  # where it was raised
    assert short.count('  File "') == 2
    assert "frames of Python are left out: level DEBUG of aiorpc.worker has them" in short
    assert "hosting/worker.py" in caplog.text
    assert "left out" not in caplog.text


async def test_the_text_of_an_error_writes_no_lines_of_its_own(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Forging:
        name = "forging"

        @rpc
        async def fail(self) -> None:
            raise ValueError("x\nERROR of another program")

    async with ServiceContainer(Forging, config), ClusterRpcProxy(config, timeout=5) as cluster:
        with pytest.raises(RemoteError):
            await cluster.forging.fail()
    assert "\n    | ERROR of another" in caplog.text
    assert "\nERROR of" not in caplog.text


async def test_collectors_of_errors_get_the_whole_traceback(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config, timeout=5) as cluster:
        with pytest.raises(RemoteError):
            await cluster["log.shop"].fails()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], json.JSONDecodeError)
    assert record.exc_info[2] is record.exc_info[1].__traceback__


async def test_an_installed_service_keeps_its_own_frames(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path("/srv/site-packages/bookshop/service.py")
    package = types.ModuleType("bookshop")
    package.__file__, package.__path__ = str(file.with_name("__init__.py")), [str(file.parent)]
    module = types.ModuleType("bookshop.service")
    monkeypatch.setitem(sys.modules, "bookshop", package)
    monkeypatch.setitem(sys.modules, "bookshop.service", module)
    code = (
        "from aiorpc import rpc\n"
        "class Books:\n"
        "    name = 'books'\n"
        "    @rpc\n"
        "    async def count(self): return self.inner()\n"
        "    def inner(self): return 1 / 0\n"
    )
    exec(compile(code, str(file), "exec"), module.__dict__)
    async with ServiceContainer(module.Books, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(RemoteError):
            await cluster.books.count()
    assert "in count" in caplog.text
    assert "in inner" in caplog.text


async def test_causes_are_named_without_their_frames(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Wraps:
        name = "wraps"

        @rpc
        async def group(self) -> None:
            try:
                json.loads("{")
            except ValueError as error:
                raise ExceptionGroup("both", [error, KeyError("a")]) from error

    async with ServiceContainer(Wraps, config), ClusterRpcProxy(config, timeout=5) as cluster:
        with pytest.raises(RemoteError):
            await cluster.wraps.group()
    assert "direct cause" in caplog.text
    assert "KeyError: 'a'" in caplog.text

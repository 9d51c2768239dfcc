"""
Invalid requests to our service on RabbitMQ. The process survives, the next valid call is answered,
nothing stays unacked, and a caller who can be answered gets a typed error.

The probes are those of `server_probes` in the golden data, eleven of which kill Nameko, and more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel, HeadersType

from aiorpc import ClusterRpc, DependencyProvider, ServiceContainer, WorkerContext, rpc
from tests.nameko.golden import DATA
from tests.nameko.raw_client import (
    CONTENT_TYPE,
    CORRELATION_ID,
    HEADERS,
    JSON,
    REPLY_TO,
    Caller,
    arguments,
    send_garbled,
    short,
    table,
)

pytestmark = [pytest.mark.nameko]


# The service


class Worker(DependencyProvider[WorkerContext]):
    """The worker's own context."""

    def value(self, worker_ctx: WorkerContext) -> WorkerContext:
        return worker_ctx


class Failing(DependencyProvider[None]):
    """Fails in the phase that the first argument names."""

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncIterator[None]:
        phase = next(iter(worker_ctx.call.args), None) if worker_ctx.call.method == "dep" else None
        if phase == "opening":
            raise RuntimeError("opening")
        yield
        if phase == "closing":
            raise RuntimeError("closing")


class Recursive(Exception):
    """An error whose arguments contain themselves."""

    def __init__(self) -> None:
        self_containing: list[Any] = []
        self_containing.append(self_containing)
        super().__init__(self_containing)

    def __str__(self) -> str:
        return "recursive"


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def endless() -> Any:
    while True:
        yield 1


def raise_error(kind: str) -> None:
    class Loc(Exception):
        pass

    errors: dict[str, Callable[[], BaseException]] = {
        "value": lambda: ValueError("x"),
        "local": lambda: Loc("l"),
        "recursive": Recursive,
        "no module": lambda: type("NoModule", (Exception,), {"__module__": None})("m"),
        "no text": lambda: NoText("x"),
        "endless": lambda: ValueError(endless()),
        "huge": lambda: ValueError("x" * 100_000, *range(5000)),
        "surrogate": lambda: ValueError("\ud800"),
        "bytes": lambda: ValueError(b"\xff"),
        "group": lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
        "cancelled": asyncio.CancelledError,
        "exit": lambda: SystemExit(3),
        "generator exit": GeneratorExit,
        "stop": lambda: StopIteration(1),
        "stop async": StopAsyncIteration,
        "timeout": TimeoutError,
        "base": lambda: type("Base", (BaseException,), {})("b"),
    }
    raise errors[kind]()


def service_class(name_: str) -> type:
    class Probed:
        name = name_
        worker = Worker()
        failing = Failing()
        cluster = ClusterRpc()

        @rpc
        async def echo(self, *args: Any, **kwargs: Any) -> Any:
            return [args, kwargs]

        @rpc
        async def describe(self, *args: Any) -> Any:
            return [repr(arg) for arg in args]

        @rpc
        async def ctx(self) -> Any:
            return self.worker.call_id_stack

        @rpc
        async def data(self) -> Any:
            return dict(self.worker.context_data)

        @rpc
        async def remaining(self) -> Any:
            deadline = self.worker.call.context.deadline
            return None if deadline is None else deadline.remaining()

        @rpc
        async def hop(self, method: str) -> Any:
            return await self.cluster[self.name][method]()

        @rpc
        async def fail(self, kind: str) -> None:
            raise_error(kind)

        @rpc
        def fail_sync(self, kind: str) -> None:
            raise_error(kind)

        @rpc
        async def dep(self, phase: str) -> None:
            pass

        @rpc
        async def unserializable(self) -> object:
            return object()

        async def plain(self) -> None:
            """No entrypoint."""

    return Probed


# The probes


@dataclass(frozen=True)
class Probe:
    """A request, and the expected answer."""

    name: str
    body: bytes | dict[str, Any] = field(default_factory=lambda: arguments(1))
    method: str = "echo"
    properties: dict[str, Any] = field(default_factory=dict)
    #: The result, or the error's class name and a part of its text, or no answer.
    result: Any = None
    error: tuple[str, str] | None = None
    silent: bool = False
    #: Whether the log must have one line about it.
    warns: bool = False

    def __str__(self) -> str:
        return self.name


def ok(name: str, *, result: Any = None, **request: Any) -> Probe:
    return Probe(name, result=[[1], {}] if result is None else result, **request)


def wrong(name: str, error: str, text: str = "", **request: Any) -> Probe:
    return Probe(name, error=(error, text), warns=True, **request)


def silent(name: str, *, warns: bool = True, **request: Any) -> Probe:
    return Probe(name, silent=True, warns=warns, **request)


def malformed(name: str, text: str = "", **request: Any) -> Probe:
    return wrong(name, "MalformedRequest", text, **request)


def with_type(content_type: str, text: bytes, encoding: str = "utf-8") -> dict[str, Any]:
    return {
        "body": text,
        "properties": {"content_type": content_type, "content_encoding": encoding},
    }


def with_headers(**headers: Any) -> dict[str, Any]:
    return {"properties": {"headers": {key.replace("__", "."): v for key, v in headers.items()}}}


GOOD = json.dumps(arguments(1)).encode()
TYPED = [
    {"__type__": "datetime", "__value__": "2020-01-01T00:00:00"},
    {"__type__": "decimal", "__value__": "1.5"},
    {"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000005"}},
    {"__type__": "bytes", "__value__": "YWJj"},
    {"__type__": "base64", "__value__": "YWJj"},
]

#: Named as in `server_probes`; `test_every_probe_of_the_golden_data_is_here` checks that.
PROBES = [
    ok("ok"),
    ok("ok kwargs", body=arguments(a=1), result=[[], {"a": 1}]),
    ok("extra keys in body", body={**arguments(), "x": 1}, result=[[], {}]),
    malformed("invalid json", body=b"{nope"),
    malformed("empty body", body=b""),
    malformed("invalid utf8", body=b'{"args":["\xff"],"kwargs":{}}'),
    malformed("missing kwargs", "`args` or `kwargs`", body={"args": []}),
    malformed("missing args", "`args` or `kwargs`", body={"kwargs": {}}),
    malformed("body list", "list", body=b"[]"),
    malformed("body string", "str", body=b'"args"'),
    malformed("body null", "NoneType", body=b"null"),
    malformed("body number", "int", body=b"1"),
    wrong("args null", "IncorrectSignature", "NoneType", body={"args": None, "kwargs": {}}),
    ok("args dict", body={"args": {"k": 1}, "kwargs": {}}, result=[["k"], {}]),
    ok("args string", body={"args": "ab", "kwargs": {}}, result=[["a", "b"], {}]),
    wrong("kwargs null", "IncorrectSignature", "NoneType", body={"args": [], "kwargs": None}),
    wrong("kwargs list", "IncorrectSignature", "list", body={"args": [], "kwargs": []}),
    ok("no correlation_id", properties={"correlation_id": None}),
    silent("unroutable reply_to", properties={"reply_to": "nobody"}, warns=False),
    wrong("method not found", "MethodNotFound", "nope", method="nope"),
    malformed("method not found + invalid json", method="nope", body=b"{nope"),
    wrong("non-entrypoint method", "MethodNotFound", "plain", method="plain"),
    ok("no headers prop", properties={"headers": None}),
    ok("headers empty", properties={"headers": {}}),
    ok(
        "foreign headers",
        method="data",
        body=arguments(),
        **with_headers(**{"x-foo": "a", "nameko.b": "c"}),
        result={"x-foo": "a", "b": "c"},
    ),
    ok("call_id_stack string", **with_headers(nameko__call_id_stack="abc")),
    ok("call_id_stack int", **with_headers(nameko__call_id_stack=5)),
    ok("call_id_stack empty list", **with_headers(nameko__call_id_stack=[])),
    ok("call_id_stack long", **with_headers(nameko__call_id_stack=[str(n) for n in range(20)])),
    malformed("ct text/plain", "text/plain", **with_type("text/plain", GOOD)),
    malformed(
        "ct octet-stream",
        "application/octet-stream",
        **with_type("application/octet-stream", GOOD, "binary"),
    ),
    malformed(
        "ct pickle",
        "application/x-python-serialize",
        **with_type("application/x-python-serialize", pickle.dumps(arguments(1)), "binary"),
    ),
    malformed(
        "ct yaml",
        "application/x-yaml",
        **with_type("application/x-yaml", b"args: [1]\nkwargs: {}\n"),
    ),
    malformed("ct unknown", "application/foo", **with_type("application/foo", GOOD)),
    ok("ct json;charset", **with_type("application/json; charset=utf-8", GOOD)),
    malformed("ct data", "application/data", **with_type("application/data", GOOD, "binary")),
    ok("ce missing", properties={"content_encoding": None}),
    ok("ce binary", properties={"content_encoding": "binary"}),
    ok("ce utf8 alias", properties={"content_encoding": "utf8"}),
    ok(
        "ce latin-1",
        body=b'{"args":["\xe9"],"kwargs":{}}',
        properties={"content_encoding": "latin-1"},
        result=[["\xe9"], {}],
    ),
    ok("ce bogus", properties={"content_encoding": "bogus"}),
    ok("gzip", body=zlib.compress(GOOD), **with_headers(compression="application/x-gzip")),
    malformed(
        "typed json", "bogus", body=arguments(TYPED[0], {"__type__": "bogus", "__value__": 1})
    ),
    ok(
        "delivery_mode 1 + message_id + timestamp + type + app_id",
        properties={
            "delivery_mode": 1,
            "message_id": "m",
            "timestamp": 1_600_000_000,
            "type": "t",
            "app_id": "a",
        },
    ),
    wrong("expected err", "ValueError", "x", method="fail", body=arguments("value")),
    malformed("no ct", "content type", properties={"content_type": None}),
    silent("no reply_to", properties={"reply_to": None}),
    silent("no reply_to + method not found", method="nope", properties={"reply_to": None}),
    silent("no reply_to + invalid json", body=b"{nope", properties={"reply_to": None}),
    wrong("GreenletExit in method", "CancelledError", method="fail", body=arguments("cancelled")),
    wrong("SystemExit in method", "SystemExit", "3", method="fail", body=arguments("exit")),
    wrong(
        "worker_setup raises", "RuntimeError", "opening", method="dep", body=arguments("opening")
    ),
    wrong(
        "get_dependency raises", "RuntimeError", "opening", method="dep", body=arguments("opening")
    ),
    # Nameko answers "ok" to these two, and then dies.
    wrong(
        "worker_result raises", "RuntimeError", "closing", method="dep", body=arguments("closing")
    ),
    wrong(
        "worker_teardown raises", "RuntimeError", "closing", method="dep", body=arguments("closing")
    ),
    # "service __init__ raises" has a test of its own.
    wrong(
        "error whose args recursive",
        "Recursive",
        "recursive",
        method="fail",
        body=arguments("recursive"),
    ),
    wrong("error whose exc is local class", "Loc", "l", method="fail", body=arguments("local")),
    wrong("error __main__/no module", "NoModule", "m", method="fail", body=arguments("no module")),
    ok("final ok"),
    ok(
        "typed json ok",
        method="describe",
        body=arguments(*TYPED),
        result=[
            "datetime.datetime(2020, 1, 1, 0, 0)",
            "Decimal('1.5')",
            "UUID('00000000-0000-0000-0000-000000000005')",
            "b'YWJj'",
            "b'abc'",
        ],
    ),
]

FURTHER = [
    *(
        wrong(f"{kind} raised", error, text, method="fail", body=arguments(kind))
        for kind, error, text in [
            ("no text", "NoText", ""),
            ("endless", "ValueError", ""),
            ("huge", "ValueError", "xxx"),
            ("surrogate", "ValueError", ""),
            ("bytes", "ValueError", "xff"),
            ("group", "ExceptionGroup", "several"),
            ("stop", "RuntimeError", "StopIteration"),
            ("stop async", "StopAsyncIteration", ""),
            ("timeout", "TimeoutError", ""),
        ]
    ),
    *(
        wrong(f"{kind} raised in a thread", error, text, method="fail_sync", body=arguments(kind))
        for kind, error, text in [
            ("value", "ValueError", "x"),
            ("cancelled", "CancelledError", ""),
            ("exit", "SystemExit", "3"),
            ("stop", "RuntimeError", "StopIteration"),
            ("recursive", "Recursive", ""),
        ]
    ),
    wrong(
        "result that cannot be sent",
        "UnserializableValueError",
        "object",
        method="unserializable",
        body=arguments(),
    ),
    wrong("argument named self", "IncorrectSignature", "self", body=arguments(self=1)),
    ok(
        "odd keyword names",
        body={"args": [], "kwargs": {"": 1, "a b": 2}},
        result=[[], {"": 1, "a b": 2}],
    ),
    malformed("nested 100,000 deep", body=b"[" * 100_000),
    malformed(
        "arguments nested 5,000 deep",
        body=b'{"args":[%s],"kwargs":{}}' % (b"[" * 5000 + b"]" * 5000),
    ),
    ok("lone surrogate", body=b'{"args":["\\ud800"],"kwargs":{}}', result=[["\ud800"], {}]),
    malformed("gzip that is none", body=b"nope", **with_headers(compression="application/x-gzip")),
    malformed("compression unknown", "x-foo", **with_headers(compression="x-foo")),
    malformed("compression a number", **with_headers(compression=5)),
    malformed(
        "gzip bomb",
        "over 100 times",
        body=zlib.compress(b'{"args":[1],"kwargs":{}}' + b" " * 3_000_000),
        **with_headers(compression="application/x-gzip"),
    ),
    malformed(
        "envelope whose value is none of its type",
        "datetime",
        body=arguments({"__type__": "datetime", "__value__": 5}),
    ),
    malformed("envelope whose type is a list", body=arguments({"__type__": [], "__value__": 5})),
    silent("empty reply_to", properties={"reply_to": ""}),
    ok(
        "call_id_stack mixed",
        **with_headers(nameko__call_id_stack=[["a"], {"x": 1}, 5, "ok", None]),
    ),
    ok("call_id_stack null", **with_headers(nameko__call_id_stack=None)),
    ok("call_id_stack a table", **with_headers(nameko__call_id_stack={"a": 1})),
    *(
        ok(f"deadline {deadline!r}", **with_headers(nameko__aiorpc_deadline=deadline))
        for deadline in ["soon", 1.5, True, None, [1], {"a": 1}, 0, -1, 1, 2**62, -(2**62)]
    ),
]


def test_every_probe_of_the_golden_data_is_here() -> None:
    known = {probe.name for probe in PROBES} | {"service __init__ raises"}
    assert known == set(DATA["server_probes"]["2.14.1"])


# The tests


@pytest.fixture
def config(rabbitmq_url: str) -> dict[str, Any]:
    return {
        "AMQP_URI": rabbitmq_url,
        "MAX_MESSAGE_SIZE": 1_000_000,
        "max_workers": 2,
    }


@asynccontextmanager
async def probed(
    channel: AbstractChannel, config: dict[str, Any], name: str
) -> AsyncIterator[Caller]:
    """
    The running service and a raw client of it. At the end a valid call is answered. When the
    service has stopped, its queue is empty: an unacked request would be in it again.
    """
    async with Caller(channel, name).listening() as caller:
        async with ServiceContainer(service_class(name), config=config):
            yield caller
            good = await caller.ask("echo", arguments("good"), correlation_id="good")
            assert good.message.correlation_id == "good", "an unexpected answer came"
            assert good.result == [["good"], {}]
            assert caller.no_more()
        queue = await channel.declare_queue(f"rpc-{name}", passive=True)
        assert queue.declaration_result.consumer_count == 0
        assert queue.declaration_result.message_count == 0, "a request stayed unacked"


def lines_about(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """Return the warnings and errors that were logged about the service's calls."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
        and record.name.startswith("aiorpc")
        and name in record.getMessage()
    ]


def names(probe: Any) -> str:
    return str(probe)


@pytest.mark.parametrize("probe", [*PROBES, *FURTHER], ids=names)
async def test_the_service_survives_and_answers_each_probe(
    probe: Probe,
    channel: AbstractChannel,
    config: dict[str, Any],
    new_name: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with probed(channel, config, new_name("probed")) as caller:
        await caller.send(probe.method, probe.body, **probe.properties)
        if not probe.silent:
            reply = await caller.reply()
            check(probe, reply.body)
            expected = probe.properties.get("correlation_id", "cid")
            assert reply.message.correlation_id == expected
            assert reply.message.content_type == "application/json"
            assert reply.message.content_encoding == "utf-8"
            assert reply.message.headers == {}
    said = lines_about(caplog, caller.service)
    assert len(said) == (1 if probe.warns else 0), said


def check(probe: Probe, body: Any) -> None:
    assert set(body) == {"result", "error"}
    if probe.error is None:
        assert body == {"result": probe.result, "error": None}
        return
    assert body["result"] is None
    error = body["error"]
    kind, text = probe.error
    assert {"exc_type", "exc_path", "exc_args", "value"} <= set(error)
    if kind:
        assert error["exc_type"] == kind
    assert text in error["value"]
    if kind in {"MalformedRequest", "MethodNotFound", "IncorrectSignature"}:
        assert error["exc_path"] == f"nameko.exceptions.{kind}"


async def test_all_of_them_together_take_no_worker_and_no_prefetch_away(
    channel: AbstractChannel, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    probes = [*PROBES, *FURTHER]
    async with probed(channel, {**config, "max_workers": 1}, new_name("probed")) as caller:
        expected = {}
        for number, probe in enumerate(probes):
            properties = {"correlation_id": str(number), **probe.properties}
            if not probe.silent:
                expected[properties["correlation_id"]] = probe
            await caller.send(probe.method, probe.body, **properties)
        while expected:
            reply = await caller.reply()
            check(expected.pop(reply.message.correlation_id), reply.body)


async def test_a_service_that_cannot_be_instantiated_answers_with_an_error(
    channel: AbstractChannel, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    name = new_name("unmade")

    class Unmade:
        allowed = False

        def __init__(self) -> None:
            if not Unmade.allowed:
                raise RuntimeError("init")

        @rpc
        async def echo(self, *args: Any, **kwargs: Any) -> Any:
            return [args, kwargs]

    Unmade.name = name
    async with Caller(channel, name).listening() as caller:
        async with ServiceContainer(Unmade, config=config):
            reply = await caller.ask("echo", arguments())
            assert reply.error["exc_path"] == "builtins.RuntimeError"
            assert reply.error["exc_args"] == ["init"]
            Unmade.allowed = True
            assert (await caller.ask("echo", arguments())).result == [[], {}]
        queue = await channel.declare_queue(f"rpc-{name}", passive=True)
        assert queue.declaration_result.message_count == 0


@pytest.mark.parametrize("kind", ["generator exit", "base"])
async def test_a_base_exception_ends_only_its_call(
    kind: str,
    channel: AbstractChannel,
    config: dict[str, Any],
    new_name: Callable[[str], str],
) -> None:
    async with probed(channel, config, new_name("probed")) as caller:
        reply = await caller.ask("fail", arguments(kind))
        assert reply.error["exc_type"] in {"GeneratorExit", "Base"}


INTERRUPTED = """
import asyncio, json, sys
from aiorpc import rpc, serve

class Interrupted:
    name = sys.argv[1]

    @rpc
    async def fail(self):
        raise KeyboardInterrupt

    @rpc
    def fail_sync(self):
        raise KeyboardInterrupt

asyncio.run(serve(Interrupted, config=json.loads(sys.argv[2])))
"""


@pytest.mark.parametrize("method", ["fail", "fail_sync"])
async def test_a_keyboard_interrupt_ends_the_process_but_its_request_is_answered(
    method: str,
    channel: AbstractChannel,
    new_name: Callable[[str], str],
    broker: dict[str, Any],
) -> None:
    """
    asyncio re-raises it from the loop. The call is answered, so no redelivery ends the next one.
    """
    name = new_name("interrupted")
    # The test declares the queue, so that the request can wait for the process.
    async with Caller(channel, name).listening() as caller:
        queue = await channel.declare_queue(f"rpc-{name}", durable=True)
        await queue.bind("nameko-rpc", f"{name}.*")
        await caller.send(method, arguments())
        program = (sys.executable, "-c", INTERRUPTED, name, json.dumps(broker))
        process = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE)
        reply = await caller.reply()
        assert reply.error["exc_type"] == "KeyboardInterrupt"
        _, errors = await process.communicate()
        assert process.returncode != 0
        assert b"KeyboardInterrupt" in errors
        queue = await channel.declare_queue(f"rpc-{name}", passive=True)
        assert queue.declaration_result.message_count == 0


# Headers


INTEGERS = [0, 1, 127, 128, 200, 255, 256, 1000, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31]
INTEGERS += [2**32 - 1, 2**32, 2**63 - 1, -129, -1000, -32768, -32769, -(2**31), -(2**63)]


async def test_header_values_of_every_type_arrive_as_context_data(
    channel: AbstractChannel, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    """pamqp writes each integer with the smallest tag there is: b, B, s, u, I, i, l."""
    sent: HeadersType = {
        **{f"nameko.int{number}": number for number in INTEGERS},
        "nameko.text": "h\xe9\u2603",
        "nameko.empty": "",
        "nameko.yes": True,
        "nameko.no": False,
        "nameko.float": 0.5,
        "nameko.nested": {"a": [1, None, {"b": [True, "x"]}], "": {}},
        "nameko.decimal": Decimal("1.5"),
        "nameko.time": datetime(2020, 1, 2, tzinfo=UTC),
        "nameko.": "no name",
        "": "nothing at all",
    }
    async with probed(channel, config, new_name("probed")) as caller:
        expected = {
            **{f"int{number}": number for number in INTEGERS},
            "text": "h\xe9\u2603",
            "empty": "",
            "yes": True,
            "no": False,
            "float": 0.5,
            "nested": {"a": [1, None, {"b": [True, "x"]}], "": {}},
            "decimal": {"__type__": "decimal", "__value__": "1.5"},
            "time": {"__type__": "datetime", "__value__": "2020-01-02T00:00:00+00:00"},
        }
        for method, body in [("data", arguments()), ("hop", arguments("data"))]:
            reply = await caller.ask(method, body, headers=sent)
            result = reply.result
            assert result.pop("") in {"no name", "nothing at all"}
            assert result == expected


async def test_invalid_call_id_stacks_are_ignored_and_long_ones_cut(
    channel: AbstractChannel, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    async with probed(channel, config, new_name("probed")) as caller:

        async def stack(header: Any) -> list[str]:
            reply = await caller.ask("ctx", arguments(), headers={"nameko.call_id_stack": header})
            *parents, own = reply.result
            assert own.startswith(f"{caller.service}.ctx.")
            return parents

        assert await stack([]) == []
        assert await stack(5) == []
        assert await stack("abc") == []
        assert await stack(["a", "b"]) == ["a", "b"]
        assert await stack([str(n) for n in range(20)]) == [str(n) for n in range(10, 20)]


async def test_a_deadline_of_another_type_or_long_past_is_ignored(
    channel: AbstractChannel, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    """Rules 1 and 3: a past deadline without an expiration came through a Nameko event."""
    async with probed(channel, config, new_name("probed")) as caller:
        for deadline in ["soon", 1.5, True, None, [1], 0, -1, 1]:
            headers = {"nameko.aiorpc_deadline": deadline}
            reply = await caller.ask("remaining", arguments(), headers=headers)
            assert reply.result is None, deadline
            reply = await caller.ask("data", arguments(), headers=headers)
            assert reply.result == {}, deadline


GARBLED = {
    "no properties": (0, b""),
    "content type": (CONTENT_TYPE | REPLY_TO, short(b"\xff/json")),
    "header value": (
        CONTENT_TYPE | HEADERS | REPLY_TO,
        JSON + table(short(b"key") + b"S" + table(b"\xff\xfe")),
    ),
    # They are answered, but aio-pika cannot read the answer, which has the same id.
    "correlation id": (CONTENT_TYPE | CORRELATION_ID, JSON + short(b"\xff\xfe")),
    # These two cannot be answered.
    "header name": (CONTENT_TYPE | HEADERS, JSON + table(short(b"\xffkey") + b"t\x01")),
    "reply_to": (CONTENT_TYPE | REPLY_TO, JSON + short(b"\xff")),
}
ANSWERED = {"content type", "header value"}


@pytest.mark.parametrize("what", GARBLED)
async def test_properties_that_are_not_utf8_are_survived(
    what: str,
    channel: AbstractChannel,
    config: dict[str, Any],
    new_name: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """aiormq alone would close the connection at each of these."""
    flags, properties = GARBLED[what]
    async with probed(channel, config, new_name("probed")) as caller:
        if what in ANSWERED:
            properties += short(caller.reply_to.encode())
        key = f"{caller.service}.echo"
        await send_garbled(config["AMQP_URI"], "nameko-rpc", key, flags, properties, GOOD)
        if what in ANSWERED:
            await caller.reply()
    assert not [line for line in caplog.messages if "lost the connection" in line]

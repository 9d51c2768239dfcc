"""
Nameko and aiorpc call one another on one RabbitMQ: results, every kind of error, context data, the
call id stack, and the deadline through a Nameko hop. Against each stack in `virtualenvs.STACKS`.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel

import aiorpc
from aiorpc import ClusterProxy, ClusterRpcProxy, ServiceContainer, exceptions
from tests.nameko.processes import Nameko, NamekoError
from tests.nameko.raw_client import Caller, arguments
from tests.nameko.services import ERRORS, SPECIAL, Booking, KnownError, service
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nameko]


@pytest.fixture
async def ours(
    nameko: Nameko, new_name: Callable[[str], str], broker: dict[str, Any]
) -> AsyncIterator[str]:
    """The name of our service, which runs."""
    name = new_name("ours")
    async with ServiceContainer(service(name), config=broker):
        yield name


@pytest.fixture
async def cluster(nameko: Nameko, broker: dict[str, Any]) -> AsyncIterator[ClusterProxy]:
    """Our client. The fixture fails if calls stay pending."""
    proxy = ClusterRpcProxy(broker, timeout=5)
    async with proxy as entered:
        yield entered


CONTEXT = {
    "language": "en-GB",
    "user_id": 200,  # with wrong type tags these three break Nameko's parser (trap 1)
    "minus": -5,
    "less": -1000,
    "big": 2**40,
    "ratio": 0.1,
    "yes": True,
    "text": "h\xe9\u2603",
    "nested": {"a": [1, None, True, 1.5]},
}


#: Values that JSON lacks, and what a kombu before 5.3 sends for them.
TYPED = ["datetime", "aware", "date", "time", "decimal", "uuid", "bytes", "badbytes"]
PLAIN = {
    "datetime": "2020-01-02T03:04:05",
    "aware": "2020-01-02T03:04:05Z",
    "date": "2020-01-02T00:00:00",
    "time": "01:02:03",
    "decimal": "1.10",
    "uuid": "00000000-0000-0000-0000-000000000005",
}
#: The same values between two sides that use typed JSON.
BACK = {**SPECIAL, "tuple": [1, 2], "intkey": {"1": 2}}


def types_of(values: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in values.items()}


# A Nameko client calls us


async def test_nameko_receives_our_results(nameko: Nameko, ours: str) -> None:
    assert await nameko.call(ours, "append_identifier", "hello") == "hello-y"
    args = (1, "h\xe9\u2603", None, 1.5, True, [1], {"k": {"n": 1}})
    assert await nameko.call(ours, "echo", *args, kw=2) == [list(args), {"kw": 2}]
    assert await nameko.call(ours, "echo") == [[], {}]
    assert await nameko.call(ours, "signature", 1, c=3) == [1, 1, 3]


async def test_nameko_serves_many_calls_of_ours_at_once(nameko: Nameko, ours: str) -> None:
    calls = [((number,), {}) for number in range(200)]
    assert await nameko.call_async(ours, "double", calls) == [2 * n for n in range(200)]


async def test_typed_results_of_ours_reach_nameko(nameko: Nameko, ours: str) -> None:
    answers = await nameko.call_async(ours, "special", [((kind,), {}) for kind in SPECIAL])
    results = dict(zip(SPECIAL, answers, strict=True))
    assert math.isnan(results.pop("nan"))
    if nameko.is_old:
        # Its kombu does not decode envelopes, so it gets an object; `JSON_TYPES: plain` avoids
        # that.
        for kind in TYPED:
            assert set(results.pop(kind)) == {"__type__", "__value__"}
    expected = {kind: BACK[kind] for kind in results}
    assert results == expected
    assert types_of(results) == types_of(expected)


async def test_plain_json_is_what_an_old_nameko_sends(
    nameko: Nameko, new_name: Callable[[str], str], broker: dict[str, Any]
) -> None:
    name = new_name("plain")
    async with ServiceContainer(service(name), config={**broker, "JSON_TYPES": "plain"}):
        for kind, expected in PLAIN.items():
            assert await nameko.call(name, "special", kind) == expected
            if nameko.is_old:
                assert await nameko.call(nameko.x, "special", kind) == expected


async def test_typed_arguments_of_nameko_reach_annotated_methods(nameko: Nameko, ours: str) -> None:
    """Also for an old kombu, which sends dates as strings of datetimes at midnight."""
    kinds = ["datetime", "date", "time", "decimal", "uuid"]
    args = [SPECIAL[kind] for kind in kinds]
    assert await nameko.call(ours, "annotated", *args) == [repr(arg) for arg in args]
    aware = SPECIAL["aware"]
    assert (await nameko.call(ours, "annotated", aware, *args[1:]))[0] == repr(aware)


async def test_an_object_of_nameko_becomes_a_dataclass(nameko: Nameko, ours: str) -> None:
    fields = {
        "day": SPECIAL["date"],
        "price": SPECIAL["decimal"],
        "guest": SPECIAL["uuid"],
        "notes": ["a"],
    }
    assert await nameko.call(ours, "book", fields) == repr(Booking(**fields))


async def test_typed_arguments_of_nameko_keep_their_types_without_annotations(
    nameko: Nameko, ours: str
) -> None:
    args = [SPECIAL[kind] for kind in TYPED]
    if not nameko.is_old:
        assert await nameko.call(ours, "describe", *args) == [repr(arg) for arg in args]
    else:
        strings = await nameko.call(ours, "describe", *args[:-2])
        assert strings == [repr(text) for text in PLAIN.values()]


async def test_nameko_raises_our_errors_as_its_own(nameko: Nameko, ours: str) -> None:
    expected = {
        "value": ("RemoteError", "ValueError bad value"),
        "key": ("RemoteError", "KeyError 'missing'"),
        "custom": ("RemoteError", r"CustomError ('boom', 1, None, b'\x01')"),
        "known": ("KnownError", "('known', '2')"),
        "no_text": ("RemoteError", "NoText [__unicode__ failed]"),
        "no_args": ("RemoteError", "ValueError "),
    }
    assert set(expected) == set(ERRORS)
    calls = [((kind,), {}) for kind in expected]
    errors = await nameko.call_async(ours, "fail", calls)
    assert [(error.type, error.text) for error in errors] == list(expected.values())
    own = await nameko.call_async(nameko.x, "fail", calls)
    assert [(vars(error), error.args) for error in errors] == [
        (vars(error), error.args) for error in own
    ]


async def test_nameko_gets_a_refused_call_as_a_remote_error(nameko: Nameko, ours: str) -> None:
    calls = [((), {}), ((), {})]
    result, refused = await nameko.call_async(ours, "one_at_a_time", calls)
    assert result == "done"
    assert (refused.type, refused.exc_type) == ("RemoteError", "Overloaded")
    assert "max_concurrency" in refused.value


async def test_nameko_raises_our_refusals_as_its_own(nameko: Nameko, ours: str) -> None:
    async def refused(method: str, *args: Any, **kwargs: Any) -> NamekoError:
        with pytest.raises(NamekoError) as caught:
            await nameko.call(ours, method, *args, **kwargs)
        assert caught.value.module == "nameko.exceptions"
        return caught.value

    missing = await refused("nope")
    assert (missing.type, missing.args) == ("MethodNotFound", ("nope",))
    assert (await refused("undecorated")).type == "MethodNotFound"
    signature = await refused("signature")
    assert (signature.type, "'a'" in signature.text) == ("IncorrectSignature", True)
    assert (await refused("signature", 1, 2, 3, 4)).type == "IncorrectSignature"
    assert (await refused("signature", 1, x=1)).type == "IncorrectSignature"
    # This class is ours, a subclass of IncorrectSignature; Nameko has no such class.
    wrong = await refused("double", "two")
    assert (wrong.type, wrong.exc_type) == ("RemoteError", "BadArguments")
    assert re.search("number.*int.*str", wrong.value or "")
    unserializable = await refused("unserializable")
    assert unserializable.exc_type == "UnserializableValueError"
    dotted = await refused("a.b")
    assert dotted.type == "UnknownService"


async def test_errors_that_nameko_has_too_are_sent_as_nameko_sends_them(
    nameko: Nameko, ours: str, channel: AbstractChannel
) -> None:
    """Also errors of the service's own call: a caller may have registered them."""
    hop = arguments("nobody_ever_ran_this", "echo", [], {})
    sent: list[list[dict[str, Any]]] = []
    for name in (ours, nameko.x):
        async with Caller(channel, name).listening() as caller:
            asked = [("hop", hop), ("unserializable", arguments()), ("nope", arguments())]
            sent.append([(await caller.ask(method, body)).error for method, body in asked])
    by_us, by_nameko = (
        [(error["exc_type"], error["exc_path"]) for error in errors] for errors in sent
    )
    assert by_us == by_nameko
    assert by_us[0] == ("UnknownService", "nameko.exceptions.UnknownService")
    assert [errors[0]["exc_args"] for errors in sent] == [["nobody_ever_ran_this"]] * 2
    assert "://" not in str(sent[0])


async def test_nameko_context_data_and_stack_reach_us(nameko: Nameko, ours: str) -> None:
    seen = await nameko.call(ours, "context", context=CONTEXT)
    *parents, own = seen.pop("call_id_stack")
    assert seen == CONTEXT
    assert own.startswith(f"{ours}.context.")
    (parent,) = parents
    origin = "standalone_rpc_client." if nameko.is_3 else "standalone_rpc_proxy.call."
    assert parent.startswith(origin)
    call_id, immediate, first = await nameko.call(ours, "parents", context=CONTEXT)
    assert call_id.startswith(f"{ours}.parents.")
    assert immediate == first
    assert first.startswith(origin)
    assert await nameko.call(ours, "remaining") is None


async def test_nameko_times_out_and_can_call_again(nameko: Nameko, ours: str) -> None:
    with pytest.raises(NamekoError) as caught:
        await nameko.call(ours, "sleep", 1.3, timeout=1)
    assert caught.value.type == "RpcTimeout"
    assert await nameko.call(ours, "double", 2, timeout=1) == 4


# Our client calls Nameko


async def test_we_receive_results_of_nameko(nameko: Nameko, cluster: ClusterProxy) -> None:
    x = cluster[nameko.x]
    assert await x.remote_method("hello") == "hello-x-y"
    args = (1, "h\xe9\u2603", None, 1.5, True, [1], {"k": {"n": 1}}, 2**60, "\ud800")
    assert await x.echo(*args, kw=2) == [list(args), {"kw": 2}]
    assert await x.signature(1, c=3) == [1, 1, 3]


async def test_we_serve_many_calls_of_nameko_at_once(nameko: Nameko, cluster: ClusterProxy) -> None:
    replies = [cluster[nameko.x].echo.call_async(number) for number in range(200)]
    results = await asyncio.gather(*replies)
    assert results == [[[number], {}] for number in range(200)]


async def test_typed_results_of_nameko_reach_us(nameko: Nameko, cluster: ClusterProxy) -> None:
    replies = [cluster[nameko.x].special.call_async(kind) for kind in SPECIAL]
    answers = await asyncio.gather(*replies, return_exceptions=True)
    results = dict(zip(SPECIAL, answers, strict=True))
    assert math.isnan(results.pop("nan"))
    if nameko.is_old:
        for kind in ("bytes", "badbytes"):
            refused = results.pop(kind)
            assert isinstance(refused, aiorpc.RemoteError)
            assert refused.exc_type == "UnserializableValueError"
    expected = {kind: (BACK | PLAIN if nameko.is_old else BACK)[kind] for kind in results}
    assert results == expected
    assert types_of(results) == types_of(expected)


async def test_typed_arguments_of_aiorpc_reach_nameko(
    nameko: Nameko, broker: dict[str, Any]
) -> None:
    args = [SPECIAL[kind] for kind in TYPED]
    config = dict(broker)
    if nameko.is_old:
        config["JSON_TYPES"] = "plain"
        args, expected = args[:-2], [repr(text) for text in PLAIN.values()]
    else:
        expected = [repr(arg) for arg in args]
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        assert await cluster[nameko.x].describe(*args) == expected


async def test_we_raise_the_errors_of_nameko(nameko: Nameko, cluster: ClusterProxy) -> None:
    for kind, path, value, args in [
        ("value", "builtins.ValueError", "bad value", ("bad value",)),
        ("key", "builtins.KeyError", "'missing'", ("missing",)),
        (
            "custom",
            "peer_errors.CustomError",
            r"('boom', 1, None, b'\x01')",
            ("boom", "1", "None", ["1"]),
        ),
        ("no_text", "peer_errors.NoText", "[__unicode__ failed]", ("x",)),
        ("no_args", "builtins.ValueError", "", ()),
    ]:
        with pytest.raises(aiorpc.RemoteError) as caught:
            await cluster[nameko.x].fail(kind)
        error = caught.value
        name = path.rpartition(".")[2]
        assert (error.exc_type, error.exc_path, error.value) == (name, path, value)
        assert error.exc_args == args
        assert str(error) == f"{name} {value}"


async def test_we_raise_a_registered_error_of_nameko_as_itself(
    nameko: Nameko, cluster: ClusterProxy
) -> None:
    with pytest.raises(KnownError) as caught:
        await cluster[nameko.x].fail("known")
    assert caught.value.args == ("known", "2")


async def test_we_raise_the_refusals_of_nameko(nameko: Nameko, cluster: ClusterProxy) -> None:
    x = cluster[nameko.x]
    with pytest.raises(aiorpc.MethodNotFound, match=r"^nope$"):
        await x.nope()
    with pytest.raises(aiorpc.MethodNotFound, match=r"^undecorated$"):
        await x.undecorated()
    for call in (x.signature(), x.signature(1, 2, 3, 4), x.signature(1, x=1)):
        with pytest.raises(aiorpc.IncorrectSignature) as caught:
            await call
        assert not isinstance(caught.value, aiorpc.BadArguments)
    with pytest.raises(aiorpc.RemoteError, match="UnserializableValueError"):
        await x.unserializable()
    with pytest.raises(aiorpc.UnserializableValueError):
        await x.echo(object())
    with pytest.raises(aiorpc.UnknownService):
        await cluster.nobody_ever_ran_this.echo()
    with pytest.raises(aiorpc.UnknownService):
        await x["a.b"]()
    assert await x.echo() == [[], {}]


async def test_our_context_data_and_stack_reach_nameko(
    nameko: Nameko, broker: dict[str, Any]
) -> None:
    async with ClusterRpcProxy(broker, timeout=5, context_data=CONTEXT) as cluster:
        seen = await cluster[nameko.x].context()
        moment = seen.pop("aiorpc_deadline")  # Nameko keeps it and sends it on
        *parents, own = seen.pop("call_id_stack")
        assert seen == CONTEXT
        assert own.startswith(f"{nameko.x}.context.")
        (parent,) = parents
        assert parent.startswith("standalone_rpc_proxy.call.")
        assert abs(int(moment) / 1000 - time.time() - 5) < 5
        _, immediate, first = await cluster[nameko.x].parents()
        assert (immediate, first) == (parent, parent)
        more = cluster[nameko.x].context.with_options(context_data={"user_id": 7, "more": [1]})
        seen = await more()
        assert (seen["user_id"], seen["more"], seen["language"]) == (7, [1], "en-GB")


async def test_no_integer_in_our_context_data_kills_nameko(
    nameko: Nameko, cluster: ClusterProxy
) -> None:
    numbers = [0, 127, 128, 200, 255, 256, 32767, 32768, 65535, 65536, -1, -128, -129, -32769]
    data = {f"v{number}": number for number in numbers} | {"nested": {"list": numbers}}
    call = cluster[nameko.x].context.with_options(context_data=data)
    seen = await call()
    assert {key: seen[key] for key in data} == data


@pytest.mark.alone  # milliseconds count
async def test_our_timeout_says_that_nameko_is_there_but_slow(
    nameko: Nameko, cluster: ClusterProxy
) -> None:
    slow = cluster[nameko.x].sleep.with_options(timeout=0.3)
    with pytest.raises(
        aiorpc.RpcTimeout, match=rf"{nameko.x}\.sleep .* 0\.(3|29\d) s.* 1 consumer"
    ):
        await slow(1)
    assert await cluster[nameko.x].echo(1) == [[1], {}]


# Three in a row


async def test_nameko_calls_us_and_we_call_nameko(nameko: Nameko, ours: str) -> None:
    hop = (nameko.y, "append_identifier", ["a"], {})
    assert await nameko.call(ours, "hop", *hop) == "a-y"
    through = (ours, "hop", [nameko.y, "append_identifier", ["a"], {}], {})
    assert await nameko.call(nameko.x, "hop", *through) == "a-y"


async def test_we_call_nameko_and_nameko_calls_us(
    nameko: Nameko, ours: str, cluster: ClusterProxy
) -> None:
    assert await cluster[nameko.x].hop(ours, "append_identifier", ["a"], {}) == "a-y"
    results = await cluster[nameko.x].hop_async(ours, "double", [[n] for n in range(20)])
    assert results == [2 * n for n in range(20)]
    assert await cluster[nameko.x].hop(ours, "hop", [ours, "double", [4], {}], {}) == 8


async def test_the_call_id_stack_grows_and_context_data_stays_over_all_hops(
    nameko: Nameko, ours: str, cluster: ClusterProxy
) -> None:
    path = [ours, "hop", [nameko.y, "context", [], {}], {}]
    call = cluster[nameko.x].hop.with_options(context_data=CONTEXT)
    seen = await call(*path)
    stack = seen.pop("call_id_stack")
    seen.pop("aiorpc_deadline")
    assert seen == CONTEXT
    assert [re.sub(r"\.[0-9a-f-]{36}$", "", entry) for entry in stack] == [
        "standalone_rpc_proxy.call",
        f"{nameko.x}.hop",
        f"{ours}.hop",
        f"{nameko.y}.context",
    ]
    through_nameko = [nameko.x, "hop", [ours, "context", [], {}], {}]
    seen = await nameko.call(ours, "hop", *through_nameko, context=CONTEXT)
    stack = seen.pop("call_id_stack")
    assert len(stack) == 4
    assert seen.pop("aiorpc_deadline", None) is None, "it shows in no context data of ours"
    assert seen == CONTEXT


async def test_the_stack_keeps_the_last_ten_parents(
    nameko: Nameko, ours: str, cluster: ClusterProxy
) -> None:
    path: list[Any] = [ours, "context", [], {}]
    for turn in range(12):
        path = [nameko.x if turn % 2 else ours, "hop", path, {}]
    seen = await cluster[ours].hop(*path)
    stack = seen["call_id_stack"]
    assert len(stack) == 11
    assert stack[-1].startswith(f"{ours}.context.")
    assert not stack[0].startswith("standalone")


async def test_errors_through_a_nameko_hop_keep_class_or_text(
    nameko: Nameko, ours: str, cluster: ClusterProxy
) -> None:
    """Nameko sends on the error of its client: a registered class stays, others are nested."""
    with pytest.raises(KnownError):
        await cluster[nameko.x].hop(ours, "fail", ["known"], {})
    with pytest.raises(aiorpc.RemoteError) as caught:
        await cluster[nameko.x].hop(ours, "fail", ["value"], {})
    assert caught.value.exc_type == "RemoteError"
    assert caught.value.value == "ValueError bad value"
    with pytest.raises(aiorpc.MethodNotFound):
        await cluster[nameko.x].hop(ours, "nope", [], {})
    with pytest.raises(aiorpc.IncorrectSignature):
        await cluster[nameko.x].hop(ours, "signature", [], {})


async def test_errors_of_nameko_keep_their_class_name_through_us(nameko: Nameko, ours: str) -> None:
    async def through_us(*hop: Any) -> NamekoError:
        with pytest.raises(NamekoError) as caught:
            await nameko.call(ours, "hop", *hop)
        return caught.value

    value = await through_us(nameko.x, "fail", ["value"], {})
    assert (value.type, value.exc_type, value.value) == ("RemoteError", "ValueError", "bad value")
    known = await through_us(nameko.x, "fail", ["known"], {})
    assert (known.type, known.args) == ("KnownError", ("known", "2"))
    assert (await through_us(nameko.x, "nope", [], {})).type == "MethodNotFound"
    assert (await through_us(nameko.x, "signature", [], {})).type == "IncorrectSignature"
    unknown = await through_us("nobody_ever_ran_this", "nope", [], {})
    assert (unknown.type, unknown.exc_type) == ("RemoteError", "UnknownService")
    met = await nameko.call(ours, "hop_meets", nameko.x, "fail", ["custom"])
    assert met == ["RemoteError", r"CustomError ('boom', 1, None, b'\x01')"]
    met = await nameko.call(nameko.x, "hop_meets", ours, "fail", ["custom"])
    assert met == ["RemoteError", r"CustomError ('boom', 1, None, b'\x01')"]


async def test_an_error_passes_a_service_that_does_not_know_its_class(
    nameko: Nameko, ours: str, cluster: ClusterProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our service in between does not know the class, but its caller does, by the path."""
    monkeypatch.delitem(exceptions.registry, "peer_errors.KnownError")
    with pytest.raises(NamekoError) as caught:
        await nameko.call(ours, "hop", nameko.x, "fail", ["known"], {})
    assert (caught.value.type, caught.value.args) == ("KnownError", ("known", "2"))


# Time


async def test_the_deadline_passes_through_a_nameko_hop(
    nameko: Nameko, ours: str, cluster: ClusterProxy
) -> None:
    direct = cluster[ours].remaining.with_options(timeout=3)
    assert 2 < await direct() <= 3
    hop = cluster[nameko.x].hop.with_options(timeout=3)
    assert 2 < await hop(ours, "remaining", [], {}) <= 3
    twice = (nameko.y, "context", [], {})
    seen = await cluster[nameko.x].hop.with_options(timeout=3)(ours, "hop", list(twice), {})
    assert "aiorpc_deadline" in seen, "our service in between sent it on"
    unlimited = cluster[nameko.x].hop.with_options(timeout=None)
    assert await unlimited(ours, "remaining", [], {}) is None


async def test_the_deadline_ends_our_worker_behind_a_nameko_hop(
    nameko: Nameko,
    new_name: Callable[[str], str],
    broker: dict[str, Any],
    cluster: ClusterProxy,
) -> None:
    name, ended = new_name("ended"), asyncio.Event()

    class Slow:
        @aiorpc.rpc
        async def sleep(self) -> None:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()

    Slow.name = name
    async with ServiceContainer(Slow, config=broker):
        # Nameko may send on our worker's error while we diagnose our own timeout.
        with pytest.raises(
            aiorpc.RpcError, match=r"RpcTimeout|gave no answer within 0\.(5|49\d) s"
        ):
            await cluster[nameko.x].hop.with_options(timeout=0.5)(name, "sleep", [], {})
        async with asyncio.timeout(1):
            await ended.wait()
    assert await cluster[nameko.x].echo(1) == [[1], {}]


@pytest.mark.alone  # milliseconds count
async def test_the_broker_drops_an_expired_request_that_waits_for_nameko(
    channel: AbstractChannel, new_name: Callable[[str], str], broker: dict[str, Any]
) -> None:
    name = new_name("later")
    async with ServiceContainer(service(name), config=broker):
        pass  # declares its queue, durable
    async with ClusterRpcProxy(broker, timeout=0.2) as cluster:
        with pytest.raises(aiorpc.RpcTimeout, match=f"rpc-{name} has 0 consumers"):
            await cluster[name].echo()

        async def queue_is_empty() -> bool:
            return not await messages_in(channel, f"rpc-{name}")

        await eventually(queue_is_empty)  # the timer of the broker and ours differ by a moment


async def messages_in(channel: AbstractChannel, name: str) -> int:
    queue = await channel.declare_queue(name, passive=True)
    return queue.declaration_result.message_count or 0


# Living together


async def test_a_service_moves_from_nameko_to_us_on_the_same_queue(
    nameko: Nameko, broker: dict[str, Any], cluster: ClusterProxy
) -> None:
    """Our service declares Nameko's queue as Nameko does; both consume it in turn."""
    async with ServiceContainer(service(nameko.y), config=broker):
        results = await asyncio.gather(
            *(cluster[nameko.y].context() for _ in range(40)), return_exceptions=True
        )
        assert all(isinstance(result, dict) for result in results)
        of_nameko = [result for result in results if "aiorpc_deadline" in result]
        assert 0 < len(of_nameko) < 40
    assert await cluster[nameko.y].append_identifier("a") == "a-y"

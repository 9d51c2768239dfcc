"""
Our wire against captured messages of real Nameko, without a server. We read all of them, and write
the same bytes, except spaces in JSON, the deadline and the expiration.
"""

from __future__ import annotations

import datetime
import json
import re
import time
import uuid
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest

from aiorpc import exceptions
from aiorpc.call import Call
from aiorpc.config import resolve
from aiorpc.context import Context, Deadline
from aiorpc.exceptions import MalformedRequest, MethodNotFound, RemoteError, deserialize_to_instance
from aiorpc.wire.errors import error_payload
from aiorpc.wire.message import Message
from aiorpc.wire.names import event_exchange, event_queue
from aiorpc.wire.protocol import Wire
from aiorpc.wire.requests import Request
from tests.nameko.golden import DATA, Golden, flags_and_properties, golden_of, goldens

EXPIRATION_FLAG = 1 << 8


def name_of(golden: Any) -> str:
    return golden.name if isinstance(golden, Golden) else str(golden)


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire.of(resolve("memory://"))


def received(wire: Wire, golden: Golden) -> Request:
    return wire.requests.read(Request(golden.message, golden.routing_key.rpartition(".")[2]))


def plain_json(text: str) -> Any:
    """Return the JSON value with envelopes undecoded, and with a NaN that equals itself."""
    return json.loads(text, parse_constant=str)


def call_of(golden: Golden, deadline: Deadline | None = None) -> Call:
    service, _, method = golden.routing_key.partition(".")
    body = json.loads(golden.body)
    context = Context(tuple(golden.call_id_stack), golden.context_data, deadline)
    return Call(service, method, tuple(body["args"]), body["kwargs"], context)


# Reading what Nameko wrote


@pytest.mark.parametrize("golden", goldens("request", "reply", "publish"), ids=name_of)
def test_unusual_properties_are_read(golden: Golden) -> None:
    message, sent = golden.message, golden.properties
    assert message.content_type == sent["content_type"]
    assert message.content_encoding == sent["content_encoding"]
    assert message.headers == sent["headers"]
    assert message.persistent is (sent["delivery_mode"] == 2)
    assert message.priority == sent["priority"]
    assert message.correlation_id == sent.get("correlation_id")
    assert message.reply_to == sent.get("reply_to")
    expiration = sent.get("expiration")
    assert message.expiration == (None if expiration is None else int(expiration))


@pytest.mark.parametrize("golden", goldens("request"), ids=name_of)
def test_requests_of_nameko_are_read(wire: Wire, golden: Golden) -> None:
    request = received(wire, golden)
    assert request.method == golden.routing_key.rpartition(".")[2]
    assert list(request.context.call_id_stack) == golden.call_id_stack
    assert request.context.data == golden.context_data
    assert request.context.deadline is None
    assert request.late is None
    args, kwargs = wire.requests.arguments(request)
    body = json.loads(golden.body)
    if "__type__" not in golden.body:
        assert [list(args), kwargs] == [body["args"], body["kwargs"]]
    else:
        assert list(args) == [datetime.datetime(2020, 1, 1), Decimal("1.5")]


SPECIAL = {
    "datetime": datetime.datetime(2020, 1, 2, 3, 4, 5),
    "date": datetime.date(2020, 1, 2),
    "time": datetime.time(1, 2, 3),
    "decimal": Decimal("1.10"),
    "uuid": uuid.UUID(int=5),
    "bytes": b"abc",
    "badbytes": b"\xff",
    "tuple": [1, 2],
    "intkey": {"1": 2},
    "uni": "h\xe9\u2603",
    "none": None,
}
RESULTS = [
    (golden, SPECIAL[kind])
    for golden in goldens("reply", stacks=("2.14.1",))
    for kind in [golden.name.rpartition("/")[2]]
    if "ret_special" in golden.name and kind in SPECIAL
]


@pytest.mark.parametrize(("golden", "expected"), RESULTS, ids=name_of)
def test_typed_results_keep_their_types(wire: Wire, golden: Golden, expected: object) -> None:
    result = wire.replies.decode(golden.message)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("golden", goldens("reply"), ids=name_of)
def test_replies_of_nameko_are_read(wire: Wire, golden: Golden) -> None:
    body = plain_json(golden.body)
    if error := body["error"]:
        with pytest.raises((RemoteError, MethodNotFound)) as caught:
            wire.replies.decode(golden.message)
        if isinstance(caught.value, RemoteError):
            assert caught.value.exc_type == error["exc_type"]
            assert caught.value.value == error["value"]
            assert list(caught.value.exc_args) == error["exc_args"]
            assert caught.value.exc_path == error["exc_path"]
            assert str(caught.value) == f"{error['exc_type']} {error['value']}"
        else:
            assert type(caught.value) is MethodNotFound
            assert caught.value.args == tuple(error["exc_args"])
    elif "__type__" in golden.body:
        assert wire.replies.decode(golden.message) != body["result"]
    elif "NaN" in golden.body:
        assert wire.replies.decode(golden.message) != wire.replies.decode(golden.message)
    else:
        assert wire.replies.decode(golden.message) == body["result"]


@patch.dict(exceptions.registry)
def test_a_registered_error_is_rebuilt_from_the_strings_that_nameko_sends(wire: Wire) -> None:
    known = deserialize_to_instance(type("KnownError", (Exception,), {"__module__": "svc"}))
    (golden,) = [one for one in goldens("reply") if one.name.endswith("service_x.err_known")]
    with pytest.raises(known) as caught:
        wire.replies.decode(golden.message)
    assert caught.value.args == ("known", "2")


@pytest.mark.parametrize("golden", goldens("publish"), ids=name_of)
def test_events_and_messages_of_nameko_are_read(wire: Wire, golden: Golden) -> None:
    payload, context = wire.payloads.decode(golden.message)
    assert payload == json.loads(golden.body)
    assert context.data == golden.context_data
    assert list(context.call_id_stack) == golden.call_id_stack


def test_old_replies_without_path_and_arguments_are_read(wire: Wire) -> None:
    """A reply of Nameko before 1.5 has no path, which would find the registered class."""
    error = {"exc_type": "ValueError", "value": "bad"}
    message = Message(body=json.dumps({"result": None, "error": error}).encode())
    with pytest.raises(RemoteError, match=r"^ValueError bad$"):
        wire.replies.decode(message)


# Writing what Nameko wrote


@pytest.mark.parametrize("golden", goldens("request"), ids=name_of)
def test_our_request_is_encoded_as_nameko_encodes_it(wire: Wire, golden: Golden) -> None:
    message = wire.requests.encode(
        call_of(golden),
        reply_to=golden.properties["reply_to"],
        correlation_id=golden.properties["correlation_id"],
    )
    assert flags_and_properties(message) == golden.flags_and_properties
    assert plain_json(message.body.decode()) == plain_json(golden.body)
    assert wire.rpc_exchange.name == golden.exchange
    assert golden.mandatory


def test_a_deadline_adds_a_header_and_the_expiration_and_nothing_else(wire: Wire) -> None:
    golden = goldens("request")[0]
    before = time.time()
    message = wire.requests.encode(
        call_of(golden, Deadline.after(3)),
        reply_to=golden.properties["reply_to"],
        correlation_id=golden.properties["correlation_id"],
    )
    after = time.time()
    ours, theirs = flags_and_properties(message), golden.flags_and_properties
    assert int.from_bytes(ours[:2]) == int.from_bytes(theirs[:2]) | EXPIRATION_FLAG
    assert message.expiration is not None
    assert 2900 < message.expiration <= 3000
    assert ours.endswith(b"\x04%d" % message.expiration)
    assert message.headers is not None
    added = {key: message.headers[key] for key in message.headers.keys() - golden.headers.keys()}
    assert list(added) == ["nameko.aiorpc_deadline"]
    moment = added["nameko.aiorpc_deadline"]
    assert (before + 3) * 1000 <= int(moment) <= (after + 3) * 1000 + 1
    # Text: py-amqp 1.4 cannot write an integer of this size, and a hop writes it again (ADR 15).
    assert b"\x16nameko.aiorpc_deadlineS\0\0\0\r" + moment.encode() in ours


@pytest.mark.parametrize(
    "value", [0, 1, 127, 128, 200, -1, -5, -129, -1000, 32767, 65536, -(2**31)]
)
def test_no_integer_in_a_header_kills_an_old_nameko(wire: Wire, value: int) -> None:
    golden = goldens("request")[0]
    call = call_of(golden)
    context = Context(call.context.call_id_stack, {"v": value})
    message = wire.requests.encode(
        Call(call.service, call.method, call.args, call.kwargs, context),
        reply_to="r",
        correlation_id="c",
    )
    tags = re.findall(rb"\x08nameko\.v(.)", flags_and_properties(message), re.DOTALL)
    assert tags in ([b"I"], [b"l"], [b"L"])


REPLIES = [
    (request, reply)
    for request, reply in zip(
        [one for one in goldens("request") if one.name in {r.name for r in goldens("reply")}],
        [one for one in goldens("reply") if one.name in {r.name for r in goldens("request")}],
        strict=True,
    )
]


@pytest.mark.parametrize(("asked", "golden"), REPLIES, ids=name_of)
def test_our_reply_is_encoded_as_nameko_encodes_it(
    wire: Wire, asked: Golden, golden: Golden
) -> None:
    body = plain_json(golden.body)
    if body["error"]:
        try:
            wire.replies.decode(golden.message)
        except Exception as error:
            message = wire.replies.error(asked.message, error)
    else:
        message = wire.replies.result(asked.message, wire.replies.decode(golden.message))
    assert flags_and_properties(message) == golden.flags_and_properties
    assert plain_json(message.body.decode()) == body


EVENTS = [one for one in goldens("publish") if "messaging/nk.ex/rk.b" not in one.name]


@pytest.mark.parametrize("golden", EVENTS, ids=name_of)
def test_our_event_is_encoded_as_nameko_encodes_it(wire: Wire, golden: Golden) -> None:
    context = Context(tuple(golden.call_id_stack), golden.context_data)
    message = wire.payloads.encode(json.loads(golden.body), context)
    assert flags_and_properties(message) == golden.flags_and_properties
    assert plain_json(message.body.decode()) == plain_json(golden.body)


def raised(name: str, *args: Any, **members: Any) -> Exception:
    return type(name, (Exception,), {"__module__": "svc", **members})(*args)


def no_text(self: object) -> str:
    raise ValueError


THING = object()
ERRORS = {
    "err_custom": raised("CustomError", "boom", 1),
    "err_known": raised("KnownError", "known", 2),
    "err_unstr": raised("Unstr", "x", __str__=no_text),
    "err_weird": raised(
        "WeirdError",
        *("a", "b", {"k": THING}, (1, {"z": 2}), None, 3.5, b"bytes"),
        __str__=lambda self: "weird!",
    ),
    "err_value": ValueError("bad value"),
    "err_key": KeyError("missing"),
    "nope": MethodNotFound("nope"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_our_errors_are_encoded_as_nameko_encodes_them(wire: Wire, name: str) -> None:
    replies = goldens("reply", stacks=("2.14.1",))
    (golden,) = [one for one in replies if one.name.endswith(f"service_x.{name}")]
    theirs = re.sub("<object object at 0x[0-9a-f]+>", str(THING), golden.body)
    assert error_payload(ERRORS[name]) == json.loads(theirs)["error"]


# Queues and exchanges


def theirs_named(kind: str, pattern: str) -> dict[str, Any]:
    (found,) = [
        one for one in DATA["topology"]["2.14.1"][kind] if re.fullmatch(pattern, one["name"])
    ]
    return found


UUID = "[0-9a-f-]{36}"


def test_the_exchange_is_declared_as_nameko_declares_it(wire: Wire) -> None:
    theirs = theirs_named("exchanges", "nameko-rpc")
    ours = wire.rpc_exchange
    assert (ours.type, ours.durable, ours.auto_delete) == (
        theirs["type"],
        theirs["durable"],
        theirs["auto_delete"],
    )
    assert list(ours.arguments) == theirs["arguments"]


def test_the_request_queue_is_declared_as_nameko_declares_it(wire: Wire) -> None:
    theirs = theirs_named("queues", "rpc-service_x")
    ours = wire.rpc_queue("service_x")
    assert ours.name == theirs["name"]
    assert (ours.durable, ours.auto_delete, ours.exclusive, ours.expires) == (
        True,
        False,
        False,
        None,
    )
    assert (theirs["durable"], theirs["auto_delete"], theirs["exclusive"]) == (True, False, False)
    assert list(ours.arguments) == theirs["arguments"]
    assert ours.exchange == wire.rpc_exchange
    assert ours.routing_key == bound_by(ours.name)


def test_the_reply_queue_is_declared_as_nameko_declares_it(wire: Wire) -> None:
    theirs = theirs_named("queues", f"rpc.reply-service_x-{UUID}")
    reply_to = bound_by(theirs["name"])
    ours = wire.reply_queue("service_x", reply_to)
    assert (ours.name, ours.routing_key) == (theirs["name"], reply_to)
    assert (ours.durable, ours.auto_delete, ours.exclusive) == (True, False, False)
    assert (theirs["durable"], theirs["auto_delete"], theirs["exclusive"]) == (True, False, False)
    assert ours.expires is not None
    assert theirs["arguments"] == [["x-expires", "signedint", int(ours.expires * 1000)]]


def bound_by(queue: str) -> str:
    (key,) = [
        one["routing_key"]
        for one in DATA["topology"]["2.14.1"]["bindings"]
        if one["destination_name"] == queue
    ]
    return key


HANDLERS = [
    ("pool", "service_y.on_pool", None, True),
    ("pool", "service_y.on_pool_unreliable", None, False),
    ("wild.*", "service_y.on_wild", None, True),
    ("single", None, None, True),
    ("single2", None, None, False),
    ("bcast", "service_y.on_bcast_reliable", "host-1", True),
    ("bcast", "service_y.on_bcast_static_unrel", "host-1", False),
]


@pytest.mark.parametrize(("event", "listener", "instance", "reliable"), HANDLERS)
def test_event_queues_are_declared_as_nameko_declares_them(
    event: str, listener: str | None, instance: str | None, reliable: bool
) -> None:
    exchange = event_exchange("service_x")
    ours = event_queue(
        exchange, "service_x", event, listener=listener, instance=instance, reliable=reliable
    )
    theirs = theirs_named("queues", re.escape(ours.name))
    assert (ours.auto_delete, ours.exclusive) == (theirs["auto_delete"], theirs["exclusive"])
    assert ours.durable is True  # the broker makes exclusive queues transient
    assert ours.routing_key == bound_by(ours.name)
    their_exchange = theirs_named("exchanges", re.escape(exchange.name))
    assert (exchange.type, exchange.durable, exchange.auto_delete) == (
        their_exchange["type"],
        their_exchange["durable"],
        their_exchange["auto_delete"],
    )


# Other serializers


def test_yaml_is_read_if_accepted_and_answered_in_yaml() -> None:
    wire = Wire.of(resolve({"AMQP_URI": "memory://", "ACCEPT": ["json", "yaml"]}))
    yaml = DATA["messages"]["other_serializers"]["application/x-yaml"]
    golden = golden_of("yaml", yaml["request"])
    request = received(wire, golden)
    args, kwargs = wire.requests.arguments(request)
    assert (list(args), kwargs) == ([1], {})
    reply = wire.replies.result(golden.message, 1)
    assert flags_and_properties(reply) == golden_of("yaml", yaml["reply"]).flags_and_properties
    assert wire.replies.decode(reply) == 1


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml"])
def test_a_serializer_that_is_not_accepted_is_refused_unread(wire: Wire, content_type: str) -> None:
    message = Message(body=b"cos\nsystem\n(S'exit 1'\ntR.", content_type=content_type)
    with pytest.raises(MalformedRequest, match=re.escape(content_type)):
        wire.requests.arguments(wire.requests.read(Request(message, "m")))

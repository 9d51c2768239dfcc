"""Errors are encoded as Nameko does, and come back as their class or as RemoteError."""

from __future__ import annotations

import pickle
import time
from typing import Any
from unittest.mock import patch

import pytest

from aiorpc import (
    BadArguments,
    ConfigurationError,
    ConnectionLost,
    IncorrectSignature,
    MalformedRequest,
    MethodNotFound,
    RemoteError,
    RpcTimeout,
    UnknownService,
    UnserializableValueError,
    deserialize_to_instance,
    exceptions,
    safe_for_serialization,
)
from aiorpc.exceptions import DeliveryUncertain, InProgress, MalformedReply, Overloaded
from aiorpc.wire.errors import error_from_payload, error_payload


@deserialize_to_instance
class Registered(Exception):
    pass


@deserialize_to_instance
class Demanding(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one, two)


def there_and_back(error: BaseException, *, refusal: bool = False) -> Exception:
    return error_from_payload(error_payload(error, refusal=refusal))


def test_an_error_has_the_four_fields_of_nameko() -> None:
    assert error_payload(ValueError("boom", 1)) == {
        "exc_type": "ValueError",
        "exc_path": "builtins.ValueError",
        "exc_args": ["boom", "1"],
        "value": "('boom', 1)",
    }


REQUESTS = [MalformedRequest, MethodNotFound, IncorrectSignature]
OTHERS = [RpcTimeout, UnknownService, UnserializableValueError, ConfigurationError]


@pytest.mark.parametrize("exc_type", [*REQUESTS, *OTHERS])
def test_errors_of_nameko_are_sent_with_its_paths(exc_type: type[Exception]) -> None:
    payload = error_payload(exc_type("why"))
    assert payload["exc_path"] == f"nameko.exceptions.{exc_type.__name__}"
    back = error_from_payload(payload)
    if exc_type in REQUESTS:
        assert type(back) is exc_type
        assert str(back) == "why"
    else:  # an error of the service's own call, or of its code
        assert isinstance(back, RemoteError)
        assert (back.exc_type, back.value) == (exc_type.__name__, "why")
        assert error_payload(back) == payload


@pytest.mark.parametrize("registered", ["aiorpc", "nameko"])
@pytest.mark.parametrize("sent", ["aiorpc", "nameko"])
def test_an_error_of_both_can_be_registered_under_either_path(registered: str, sent: str) -> None:
    with patch.dict(exceptions.registry):
        deserialize_to_instance(f"{registered}.exceptions.UnknownService")(UnknownService)
        payload = error_payload(UnknownService("x"))
        payload["exc_path"] = f"{sent}.exceptions.UnknownService"  # older versions send aiorpc's
        assert type(error_from_payload(payload)) is UnknownService


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (
            "no queue takes s.m on amqp://guest:***@10.0.0.3:5672/ (queue rpc-s does not exist)",
            "no queue takes s.m on the broker (queue rpc-s does not exist)",
        ),
        (
            "lost the connection to amqps://u%40v:***@rabbit.internal:5671/a.b%2Fc: it closed",
            "lost the connection to the broker: it closed",
        ),
        ("amqp://u:***@[::1]:5672/v. Try again", "the broker. Try again"),
        (
            "Connect call failed ('fe80::1', 5672, 0, 0), ('10.0.0.3', 5672)",
            "Connect call failed the broker, the broker",
        ),
        (
            "amqps://u:***@rabbit:5671/: certificate not valid for 'rabbit'; queue rpc-rabbit",
            "the broker: certificate not valid for the broker; queue rpc-rabbit",
        ),
        ("queue rpc-s on memory:// has 0 consumers", "queue rpc-s on memory:// has 0 consumers"),
    ],
)
def test_a_caller_does_not_see_where_the_services_broker_is(text: str, sent: str) -> None:
    for error in (RpcTimeout(text), UnknownService("s", text), ConnectionLost(text, {"k": [text]})):
        payload = error_payload(error)
        assert sent in payload["value"]
        shown = str(payload)
        assert not any(part in shown for part in ("5672", "5671", "10.0.0.3", "internal", "amqp"))
    assert error_payload(ValueError(text))["value"] == text, "it is the service's own text"


def test_bad_arguments_come_back_as_bad_arguments() -> None:
    back = there_and_back(BadArguments("`n` must be int", {"n": ["wrong"]}))
    assert type(back) is BadArguments
    assert str(back) == "`n` must be int"


def test_a_registered_error_comes_back_as_itself() -> None:
    back = there_and_back(Registered("a", "b"))
    assert type(back) is Registered
    assert back.args == ("a", "b")


def test_a_registered_error_that_cannot_be_made_is_a_remote_error() -> None:
    payload = {**error_payload(Demanding("one", "two")), "exc_args": ["only one"]}
    back = error_from_payload(payload)
    assert isinstance(back, RemoteError)
    assert (back.exc_type, back.exc_args) == ("Demanding", ("only one",))


def test_an_error_keeps_its_first_name_through_several_services() -> None:
    first = there_and_back(ValueError("boom"))
    second = there_and_back(first)
    assert isinstance(second, RemoteError)
    assert (second.exc_type, second.value, second.exc_path, second.exc_args) == (
        "ValueError",
        "boom",
        "builtins.ValueError",
        ("boom",),
    )


@pytest.mark.parametrize("error", [RpcTimeout("late"), UnknownService("x"), Overloaded("full")])
def test_an_error_of_the_services_own_call_is_a_remote_error_for_its_caller(
    error: Exception,
) -> None:
    back = there_and_back(error)
    assert type(back) is RemoteError
    assert back.exc_type == type(error).__name__


@pytest.mark.parametrize("exc_type", [RpcTimeout, DeliveryUncertain, InProgress, Overloaded])
def test_a_refusal_by_the_host_comes_back_as_its_class(exc_type: type[Exception]) -> None:
    back = there_and_back(exc_type("why"), refusal=True)
    assert type(back) is exc_type
    assert str(back) == "why"


def test_a_refused_call_comes_back_with_the_seconds_until_another_attempt() -> None:
    back = there_and_back(Overloaded("full", retry_after=1.5), refusal=True)
    assert isinstance(back, Overloaded)
    assert back.retry_after == 1.5
    back = pickle.loads(pickle.dumps(back))
    assert (str(back), back.retry_after) == ("full", 1.5)
    assert "retry_after" not in error_payload(Overloaded("full", retry_after=1.5))
    for given in ("2", -1, True, None, float("inf"), float("nan"), [1]):
        payload = {"exc_type": "Overloaded", "value": "x", "refusal": True, "retry_after": given}
        refused = error_from_payload(payload)
        assert isinstance(refused, Overloaded)
        assert refused.retry_after is None


def test_only_known_errors_can_be_a_refusal() -> None:
    payload = {"exc_type": "SystemExit", "value": "0", "refusal": True}
    assert type(error_from_payload(payload)) is RemoteError


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"exc_type": None, "exc_path": 3, "exc_args": "text", "value": None},
        {"exc_type": ["a"], "exc_path": ["b"], "exc_args": {"c": 1}, "value": {"d": 2}},
    ],
)
def test_an_error_with_fields_of_wrong_types_is_a_remote_error(payload: dict[str, Any]) -> None:
    assert isinstance(error_from_payload(payload), RemoteError)


@pytest.mark.parametrize("payload", ["boom", 1, ["x"]])
def test_an_error_that_is_not_an_object_is_a_malformed_reply(payload: object) -> None:
    assert isinstance(error_from_payload(payload), MalformedReply)


def test_an_argument_that_contains_itself_is_encoded_within_a_second() -> None:
    root: dict[str, Any] = {"name": "root"}
    root["children"] = [{"parent": root, "again": root, "name": str(n)} for n in range(50)]
    begun = time.perf_counter()
    payload = error_payload(ValueError(root))
    assert time.perf_counter() - begun < 1
    assert payload["exc_type"] == "ValueError"


def test_a_very_long_argument_is_cut() -> None:
    (numbers,) = error_payload(ValueError(range(10**9)))["exc_args"]
    assert len(numbers) < 1001
    assert numbers[:3] == ["0", "1", "2"]


def test_an_error_whose_str_raises_has_namekos_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert error_payload(Mute())["value"] == "[__unicode__ failed]"


def test_a_mapping_in_an_errors_arguments_keeps_its_shape() -> None:
    assert error_payload(ValueError({1: {"a": None}}))["exc_args"] == [{"1": {"a": "None"}}]


def test_a_class_of_the_callers_own_is_registered_for_the_path_of_the_services() -> None:
    class NotFound(Exception):
        __module__ = "orders.exceptions"

    @deserialize_to_instance("orders.exceptions.NotFound")
    class OrderNotFound(LookupError):
        pass

    error = there_and_back(NotFound(7))
    assert (type(error), error.args) == (OrderNotFound, ("7",))
    with pytest.raises(ConfigurationError, match="StopIteration"):
        deserialize_to_instance("orders.exceptions.Stop")(StopIteration)


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        ("value", "value"),
        (None, "None"),
        (3.5, "3.5"),
        ({1: [True, ("a",)]}, {"1": ["True", ["a"]]}),
        (ValueError("no"), "no"),
    ],
)
def test_values_are_made_safe_for_an_error_as_nameko_makes_them(
    value: object, safe: object
) -> None:
    assert safe_for_serialization(value) == safe


def test_an_error_that_no_coroutine_can_raise_cannot_be_registered() -> None:
    class Stop(StopIteration):
        pass

    with pytest.raises(ConfigurationError, match="Stop cannot be raised by a call"):
        deserialize_to_instance(Stop)


def test_a_long_text_of_an_error_is_cut_and_has_its_length() -> None:
    payload = error_payload(ValueError("x" * 9_000_000))
    assert len(payload["value"]) < 100_100
    assert payload["value"].endswith("... (9000000 characters)")
    assert payload["exc_args"] == [payload["value"]]

"""Values of sensitive arguments show neither in the log nor in replies; over every transport."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    BadArguments,
    Call,
    ClusterRpcProxy,
    ConfigurationError,
    Handler,
    IncorrectSignature,
    RemoteError,
    ServiceContainer,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import hide
from aiorpc.hosting.sensitive import secrets_of
from tests.support.waiting import eventually

PASSWORD = "SECRET-it's\n\u00e9"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("aiorpc").addHandler(handler)
    yield stream
    logging.getLogger("aiorpc").removeHandler(handler)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
async def test_the_log_and_the_reply_hide_the_values_of_sensitive_arguments(
    broker_config: dict[str, Any],
    written: io.StringIO,
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Service:
        name = f"sensitive_{uuid.uuid4().hex[:8]}"

        @rpc(sensitive_arguments=("password", "user.pin"))
        async def log_in(self, user: dict[str, Any], password: str = "") -> None:
            try:
                raise KeyError(password)
            except KeyError as error:
                raise ValueError(f"{user} sent {password}", [password]) from error

        @rpc(KeyError, sensitive_arguments="password")
        async def expected(self, password: str) -> None:
            raise KeyError(password)

    caplog.set_level(level, "aiorpc.worker")
    async with (
        ServiceContainer(Service, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        service = cluster[Service.name]
        user = {"name": "Ann", "pin": "12"}
        with pytest.raises(RemoteError) as wrong:
            await service.log_in(user, password=PASSWORD)
        assert wrong.value.exc_args == ("{'name': 'Ann', 'pin': '***'} sent ***", ["***"])
        with pytest.raises(RemoteError, match=r'KeyError "\*\*\*"'):
            await service.expected(PASSWORD)
    log = written.getvalue()
    assert "SECRET" not in log
    assert """ValueError: ("{'name': 'Ann', 'pin': '***'} sent ***", ["***"])""" in log
    assert 'raised an expected error: KeyError("***")' in log
    assert "in log_in" in log  # the traceback


async def reveals(call: Call, handler: Handler) -> Any:
    """A middleware whose errors show the arguments."""
    try:
        return await handler(call)
    except (IncorrectSignature, BadArguments) as error:
        raise ValueError(f"{call.args} and {call.kwargs} do not fit") from error


async def test_what_a_middleware_raises_for_a_refused_call_hides_the_values_too(
    broker_config: dict[str, Any], written: io.StringIO
) -> None:
    class Service:
        name = f"sensitive_{uuid.uuid4().hex[:8]}"

        @rpc(sensitive_arguments="password")
        async def log_in(self, user: str, password: str) -> None: ...

        @event_handler(
            name, "happened", BROADCAST, reliable_delivery=False, sensitive_arguments="payload"
        )
        async def hear(self, payload: str) -> None: ...

    async with (
        ServiceContainer(Service, broker_config, middleware=[reveals]),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
        event_dispatcher(broker_config) as dispatch,
    ):
        with pytest.raises(RemoteError, match="do not fit") as wrong:
            await cluster[Service.name].log_in(PASSWORD, "Ann", password=PASSWORD)
        await dispatch(Service.name, "happened", [PASSWORD])
        await eventually(lambda: "cannot be read and is rejected" in written.getvalue())
    assert "SECRET" not in repr(wrong.value.exc_args)
    log = written.getvalue()
    assert "log_in was refused, and its middleware raised ValueError: " in log
    assert "hear was refused, and its middleware raised ValueError: " in log
    assert "SECRET" not in log


def test_parts_of_arguments_are_found_by_their_names() -> None:
    class Service:
        @rpc(sensitive_arguments=("card.number", "codes[1]", "amount", "card.missing", "blob"))
        async def pay(
            self, card: Any, codes: Any, amount: Any, blob: bytes, *, note: str
        ) -> None: ...

    (entrypoint,) = vars(Service.pay)["__aiorpc_entrypoints__"]
    entrypoint.method_name = "pay"
    arguments = ({"number": 4711, "name": "Ann"}, ["a", "b"], Decimal("1.10"), b"\xff")
    found = secrets_of(entrypoint, Call("s", "pay", arguments, {"note": "n"}), Service)
    assert {"4711", "b", "1.10", "\ufffd", "\\xff"} == set(found) - {"\\\\xff"}


def checks_token(method: Any) -> Any:
    """A decorator of a user's, that takes the first argument away."""

    @functools.wraps(method)
    def wrapper(self: Any, token: str, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return wrapper


class Various:
    @rpc(sensitive_arguments="password")
    def with_keywords(self, user: str, **others: Any) -> None: ...

    @staticmethod
    @rpc(sensitive_arguments="password")
    def static(user: str, password: str) -> None: ...

    @rpc(sensitive_arguments="token")
    @checks_token
    def outer(self, user: str) -> None: ...

    @rpc(sensitive_arguments="password")
    @checks_token
    def inner(self, user: str, password: str) -> None: ...


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "expected"),
    [
        ("with_keywords", ("Ann",), {"password": "secret"}, {"secret"}),
        ("with_keywords", ("Ann",), {"note": "n"}, set()),
        ("static", ("Ann", "secret"), {}, {"secret"}),
        ("outer", ("secret", "Ann"), {}, {"secret"}),
        ("outer", (), {"token": "secret", "user": "Ann"}, {"secret"}),
        ("inner", (), {"token": "t", "user": "Ann", "password": "secret"}, {"secret"}),
        ("inner", ("token", "Ann", "secret"), {}, {"token", "Ann", "secret"}),  # in doubt, all
    ],
)
def test_sensitive_arguments_are_found_in_every_kind_of_method(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any], expected: set[str]
) -> None:
    function = inspect.getattr_static(Various, method)
    (entrypoint,) = vars(getattr(function, "__func__", function))["__aiorpc_entrypoints__"]
    entrypoint.method_name = method
    assert set(secrets_of(entrypoint, Call("s", method, args, kwargs), Various)) == expected


def test_a_misspelt_sensitive_argument_is_refused_when_the_class_is_made() -> None:
    def log_in(self: Any, user: Any, *codes: str, password: str = "") -> None: ...

    for right in ("user.pin", "user[0].pin", "codes[1]", ("user", "password")):
        rpc(sensitive_arguments=right)(log_in)
    known = r"did you mean 'password'\?\)\. Its arguments: user, password, codes; a part of one"
    with pytest.raises(ConfigurationError, match=rf"'pasword', but .*log_in .*{known}"):
        rpc(sensitive_arguments="pasword")(log_in)
    for wrong in ("pin.user", "", ".", "[0]"):
        with pytest.raises(ConfigurationError, match="log_in has no such argument"):
            event_handler("a", "b", sensitive_arguments=wrong)(log_in)
    with pytest.raises(ConfigurationError, match=r"'passwort', but .*static"):
        rpc(sensitive_arguments="passwort")(Various.static)
    with pytest.raises(ConfigurationError, match="Its arguments: token, args, user;"):
        rpc(sensitive_arguments="tokn")(Various.outer)


def test_short_secrets_are_masked_as_words_only() -> None:
    assert hide(["pin 12 of 1234", {"k": "12"}], ["12"]) == ["pin *** of 1234", {"k": "***"}]
    assert hide("abcdefg", ["cdef"]) == "ab***g"

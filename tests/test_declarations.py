"""Decorators of entrypoints: what they take, and what they refuse when the class is made."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    SERVICE_POOL,
    ConfigurationError,
    Entrypoint,
    Queue,
    ServiceContainer,
    consume,
    event_handler,
    once,
    rpc,
    timer,
)
from aiorpc.extensions import entrypoints_of

decorators = pytest.mark.parametrize(
    "decorator",
    [rpc, once, rpc(), timer(5), event_handler("a", "b"), consume(Queue("q"))],
    ids=["rpc", "once", "rpc()", "timer", "event_handler", "consume"],
)
QUEUE = Queue("queue")


async def coroutine(self: Any, x: int) -> int:
    return x


def function(self: Any, x: int) -> int:
    return x


class Positional:
    """As services for Nameko are written."""

    name = "positional"

    @rpc(ValueError, "x")
    async def rpc_with_one(self, x: str) -> None: ...

    @rpc((ValueError, KeyError))
    async def rpc_with_two(self) -> None: ...

    @timer(5, True)
    async def tick(self) -> None: ...

    @event_handler("source", "type", BROADCAST, False, True)
    async def handle(self, payload: Any) -> None: ...

    @event_handler("source", "type", SERVICE_POOL, True)
    async def handle_reliably(self, payload: Any) -> None: ...

    @consume(QUEUE, True)
    async def take(self, payload: Any) -> None: ...


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            "rpc_with_one",
            {"expected_exceptions": (ValueError,), "sensitive_arguments": ("x",)},
        ),
        ("rpc_with_two", {"expected_exceptions": (ValueError, KeyError), "validate": True}),
        ("tick", {"interval": 5, "eager": True}),
        ("handle", {"reliable_delivery": False, "requeue_on_error": True}),
        ("handle_reliably", {"reliable_delivery": True, "requeue_on_error": False}),
        ("take", {"queue": QUEUE, "requeue_on_error": True}),
    ],
)
def test_options_have_namekos_positions(method: str, expected: dict[str, Any]) -> None:
    (entrypoint,) = (each for each in entrypoints_of(Positional) if each.method_name == method)
    assert {name: getattr(entrypoint, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (
            lambda: consume(QUEUE, True, False, ValueError),
            r"Consumer.*it takes \(queue, requeue_on",
        ),
        (
            lambda: consume(QUEUE, True, ValueError),
            "dead_letter of Consumer must be True or",
        ),
        (lambda: timer(5, "yes"), r"eager of Timer must be True or False, got 'yes' \(str\)"),
        (lambda: rpc(validate=None), "validate of Rpc must be True or False, got None"),
        (lambda: consume(QUEUE, prefetch_count=3), "'prefetch_count'; it takes"),
        (lambda: consume(coroutine), "takes aiorpc.Queue, not function"),
        (lambda: event_handler("a"), r"'event_type'; it takes \(source_service, "),
        (
            lambda: event_handler(coroutine),
            r"'event_type'; it takes \(source_service, ",
        ),
        (
            lambda: event_handler(Positional, "b"),
            r"source_service of event_handler\(",
        ),
        (lambda: timer(5, True, 1), r"Timer.* 4 were given; it takes \(interval, eager="),
        (
            lambda: timer(coroutine),
            r"above 0 and below .*@timer\(interval=60\), got a",
        ),
        (lambda: timer("5"), r"number of seconds above 0 .*, got '5'"),
        (lambda: timer(timedelta(seconds=5)), r"number of seconds above 0 .* of type timedelta"),
        (lambda: rpc(timeout=3), r"Rpc.*'timeout'; it takes \(expected_exceptions="),
        (lambda: rpc("name"), "classes of exceptions, got 'name'"),
        (lambda: rpc(coroutine, "name"), r"classes of exceptions, got <function .*options"),
        (lambda: rpc(coroutine, validate=False), r"classes of exceptions, got <function .*options"),
        (lambda: rpc(Positional), r"classes of exceptions, got <class"),
        (
            lambda: rpc(expected_exceptions=["ValueError"]),
            "classes of exceptions, got 'V",
        ),
        (lambda: rpc(sensitive_arguments=3), "names of arguments, got 3"),
        (lambda: rpc(delivery="at-most-once"), "at_least_once or at_most_once, got 'at-most-once'"),
    ],
)
def test_wrong_options_are_refused_when_the_class_is_made(
    make: Callable[[], Any], error: str
) -> None:
    with pytest.raises(ConfigurationError, match=error):
        make()


def test_an_entrypoint_of_ones_own_refuses_wrong_options_too() -> None:
    class Own(Entrypoint):
        def __init__(self, path: str, **options: Any) -> None:
            super().__init__(**options)

    with pytest.raises(ConfigurationError, match=r"Own.*'path'; it takes \(path, \*\*options\)"):
        Own.decorator()
    with pytest.raises(ConfigurationError, match="classes of exceptions"):
        Own.decorator("/", expected_exceptions=3)
    with pytest.raises(TypeError, match="argument 'timout'"):  # Python's own, with its place
        Own.decorator("/", timout=3)


class Called:
    async def __call__(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    "method",
    [
        staticmethod(function),
        classmethod(function),
        property(function),
        functools.cached_property(function),
        functools.partial(function, x=1),
        functools.partialmethod(function, 1),
        Called(),
        len,
    ],
    ids=lambda method: type(method).__name__,
)
@decorators
def test_only_functions_of_the_service_can_be_decorated(decorator: Any, method: Any) -> None:
    kind = type(method).__name__
    with pytest.raises(ConfigurationError, match=f"not a {kind}: put .* below @staticmethod"):
        decorator(method)


@decorators
def test_a_generator_is_refused_because_its_body_would_never_run(decorator: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"rows is a generator, and .* return a list"):

        @decorator
        def rows(self: Any) -> Iterator[int]:
            yield 1


@pytest.mark.parametrize("decorator", [once, timer(5), event_handler("a", "b")])
def test_an_async_generator_is_refused_where_nobody_reads_its_items(decorator: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"rows is an async generator, and .* a list"):

        @decorator
        async def rows(self: Any) -> AsyncIterator[int]:
            yield 1


def without_wraps(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class Callable_:
    def __init__(self, method: Callable[..., Any]) -> None:
        functools.update_wrapper(self, method)

    def __call__(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("above", "remedy"),
    [
        (Callable_, r"\(it made a Callable_\): make it a method"),
        (property, r"\(it made a property\): make it a method"),
        (functools.cached_property, r"\(it made a cached_property\): make it a method"),
        (without_wraps, r"\(it made a function\): use functools\.wraps"),
    ],
)
def test_a_decorator_that_hides_the_entrypoint_below_it_is_refused_at_the_start(
    above: Callable[..., Any], remedy: str
) -> None:
    class Hides:
        name = "hides"

        @above
        @rpc
        def total(self) -> int:
            return 1

    with pytest.raises(ConfigurationError, match=rf"Hides\.total has an entrypoint .*{remedy}"):
        ServiceContainer(Hides, "memory://")


def test_attributes_that_raise_or_answer_to_every_name_are_no_entrypoints() -> None:
    class Raises:
        def __get__(self, instance: object, owner: type) -> Any:
            raise RuntimeError("not now")

    class Answers:
        def __getattr__(self, name: str) -> Any:
            return self

    class Service:
        name = "service"
        raises = Raises()
        answers = Answers()

        @rpc
        async def method(self) -> None: ...

    assert [each.method_name for each in entrypoints_of(Service)] == ["method"]


def test_a_decorator_above_adds_its_entrypoint_only_to_its_own_function() -> None:
    class Base:
        name = "base"

        @rpc
        async def method(self) -> None: ...

    @functools.wraps(Base.method)
    async def wrapper(self: Any) -> None:
        await Base.method(self)

    class Timed:
        name = "timed"
        method = timer(interval=5)(wrapper)

    assert [type(each).__name__ for each in entrypoints_of(Base)] == ["Rpc"]
    assert [type(each).__name__ for each in entrypoints_of(Timed)] == ["Rpc", "Timer"]

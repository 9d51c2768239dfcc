"""
Makes the entrypoints that decorators declare on methods, stores them and finds them; finds the name
of a service. Pure functions; this file imports only ``checks`` and ``exceptions``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

from .checks import FLAG, Kind, check
from .exceptions import ConfigurationError, likely

__all__ = [
    "argument_path",
    "check_options",
    "declared_on",
    "decorate",
    "decorator_of",
    "hosted_class",
    "layers",
    "remote_names",
    "service_name_of",
]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")

_DECLARED = "__aiorpc_entrypoints__"


class Decorator(Protocol):
    """Declares an entrypoint on a method, and returns the method unchanged."""

    def __call__(self, method: F, /) -> F: ...


def decorator_of(kind: Callable[P, object]) -> Callable[P, Decorator]:
    """Return a decorator that takes the arguments of the entrypoint class *kind*."""

    @functools.wraps(kind, updated=())
    def decorator(*args: P.args, **kwargs: P.kwargs) -> Decorator:
        return functools.partial(_declare, _made(kind, args, kwargs))

    signature = inspect.signature(kind)
    vars(decorator)["__signature__"] = signature.replace(return_annotation=signature.empty)
    return decorator


def decorate(kind: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """
    Declare an entrypoint of the class *kind* on the method in *args*. If *args* and *kwargs* are
    options, return a decorator.
    """
    if len(args) == 1 and not kwargs and _may_be_a_method(args[0]):
        return _declare(_made(kind, (), {}), args[0])
    return functools.partial(_declare, _made(kind, args, kwargs))


def _may_be_a_method(given: Any) -> bool:
    return not isinstance(given, type) and (callable(given) or hasattr(given, "__get__"))


def _made(kind: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """
    Make an entrypoint.

    Raises:
        ConfigurationError: *kind* does not accept these arguments; the text has its signature.
    """
    try:
        return kind(*args, **kwargs)
    except TypeError as exc:
        if exc.__traceback__ is not None and exc.__traceback__.tb_next is not None:
            raise  # an error inside *kind*
        raise ConfigurationError(f"wrong arguments of a decorator: {exc}{_taken(kind)}") from None


def _taken(kind: Callable[..., object]) -> str:
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (ValueError, NameError):  # Python 3.14 cannot read its annotations
        return ""
    bare = inspect.Signature([each.replace(annotation=each.empty) for each in parameters])
    return f"; it takes {bare}"


def _declare(entrypoint: object, method: F) -> F:
    """
    Store *entrypoint* on *method*, and return *method* unchanged.

    Raises:
        ConfigurationError: *method* is not a function, or it is a generator, or it does not have
            the sensitive arguments of *entrypoint*.
    """
    kind = type(entrypoint).__name__
    if (
        not callable(method)
        or isinstance(method, (staticmethod, type, functools.partial))
        or not hasattr(method, "__get__")  # it would not get the service as `self`
        or not hasattr(method, "__dict__")
    ):
        raise ConfigurationError(
            f"{kind} decorates a function of the service, not a {type(method).__name__}: put the "
            "decorator below @staticmethod or @classmethod; for a property, a partial or another "
            "object, write a method that uses it"
        )
    asynchronous = inspect.isasyncgenfunction(method)
    streams = asynchronous and getattr(entrypoint, "streams", False)
    if (asynchronous or inspect.isgeneratorfunction(method)) and not streams:
        raise ConfigurationError(
            f"{method.__qualname__} is {'an async' if asynchronous else 'a'} generator, and {kind} "
            "would never run its body: return a list, and remove each `yield`; for a stream, write "
            "an async generator with @rpc or @http"
        )
    _check_sensitive_arguments(getattr(entrypoint, "sensitive_arguments", ()), method)
    # A new list, because functools.wraps copies the reference to the list of the inner function.
    vars(method)[_DECLARED] = [*vars(method).get(_DECLARED, ()), entrypoint]
    return method


def _check_sensitive_arguments(names: Iterable[str], method: Callable[..., Any]) -> None:
    known: list[str] = []
    for function in layers(method) if names else ():
        code = getattr(function, "__code__", None)
        if code is None:
            return  # an object that is called: we do not know its arguments
        count = code.co_argcount + code.co_kwonlyargcount
        has_args = bool(code.co_flags & inspect.CO_VARARGS)
        if code.co_flags & inspect.CO_VARKEYWORDS and not hasattr(function, "__wrapped__"):
            return  # an argument may have any name
        known += code.co_varnames[: count + has_args]
    for name in names:
        argument = "".join(argument_path(name)[:1])
        if argument not in known:
            listed = ", ".join(each for each in dict.fromkeys(known) if each != "self") or "none"
            raise ConfigurationError(
                f"sensitive_arguments has {name!r}, but {method.__qualname__} has no such argument"
                f"{likely(argument, known)}. Its arguments: {listed}; a part of one is written as "
                "in user.password or codes[0]"
            )


def argument_path(name: str) -> list[str]:
    """Return the parts of a sensitive argument's name: ``user.cards[0]`` has three."""
    return re.findall(r"[^.\[\]]+", name)


def layers(method: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield *method*, then the functions that its decorators wrap (``functools.wraps``)."""
    function: Callable[..., Any] | None = method
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def declared_on(service_cls: type) -> Iterator[tuple[str, Any]]:
    """
    Yield each entrypoint of *service_cls* and its bases, with the name of its method.

    Raises:
        ConfigurationError: a decorator or another object around a method hides its entrypoints.
    """
    for name in dir(service_cls):
        attribute = inspect.getattr_static(service_cls, name, None)
        declared = getattr(getattr(attribute, "__func__", attribute), _DECLARED, None)
        declared = declared if isinstance(declared, list) else []  # a mock has every attribute
        hidden = any(_is_declared(each, name) for each in _held_by(attribute))
        if (hidden and not declared) or (declared and not hasattr(attribute, "__get__")):
            remedy = (
                "use functools.wraps in that decorator, or put the decorator of the entrypoint on "
                "top"
                if inspect.isfunction(attribute)
                else "make it a method"
            )
            raise ConfigurationError(
                f"{service_cls.__qualname__}.{name} has an entrypoint that a decorator above it "
                f"hides (it made a {type(attribute).__name__}): {remedy}"
            )
        for entrypoint in declared:
            yield name, entrypoint


def remote_names(interface: type) -> list[str]:
    """
    Return the methods of *interface* that callers can call, sorted: those with ``@rpc``, or, for a
    Protocol without any entrypoint, all methods without a leading underscore.
    """
    if declared := list(declared_on(interface)):
        return sorted({name for name, entrypoint in declared if entrypoint.remote})
    return [
        name
        for name in dir(interface)
        if not name.startswith("_") and callable(getattr(interface, name, None))
    ]


def _held_by(attribute: Any) -> Iterator[Any]:
    """Yield the functions inside a property, a cached property or the function of a decorator."""
    yield getattr(attribute, "fget", None)
    yield getattr(attribute, "func", None)
    for cell in (attribute.__closure__ or ()) if inspect.isfunction(attribute) else ():
        try:
            yield cell.cell_contents
        except ValueError:  # the cell is empty
            continue


def _is_declared(function: Any, name: str) -> bool:
    declared = inspect.isfunction(function) and hasattr(function, _DECLARED)
    return declared and function.__name__ == name


def _calls(least: int) -> Kind:
    return Kind(
        lambda value: value is None or (type(value) is int and value >= least),
        f"a number of calls, {least} or more, or None for no limit",
    )


_LIMITS = {"max_concurrency": _calls(1), "max_waiting": _calls(0)}


def check_options(entrypoint: Any) -> None:
    """
    Check the options of *entrypoint*, a dataclass, and make tuples of single names and classes.

    Raises:
        ConfigurationError: an option has the wrong type.
    """
    entrypoint.expected_exceptions = classes = _tuple(entrypoint.expected_exceptions)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(
                f"expected_exceptions are classes of exceptions, got {each!r}: write the options "
                "of a decorator above the method, @rpc(expected_exceptions=ValueError)"
            )
    entrypoint.sensitive_arguments = names = _tuple(entrypoint.sensitive_arguments)
    for each in names:
        if not isinstance(each, str):
            raise ConfigurationError(
                f"sensitive_arguments are names of arguments, got {each!r}: write a string, or "
                "several in a tuple"
            )
    flags = [each.name for each in dataclasses.fields(entrypoint) if each.type in ("bool", bool)]
    given = {each: getattr(entrypoint, each) for each in flags if hasattr(entrypoint, each)}
    check(type(entrypoint).__name__, given, dict.fromkeys(flags, FLAG))
    limits = {each: getattr(entrypoint, each) for each in _LIMITS}
    check(type(entrypoint).__name__, limits, _LIMITS)
    if entrypoint.max_waiting is not None and entrypoint.max_concurrency is None:
        raise ConfigurationError(
            "max_waiting needs max_concurrency: calls wait while max_concurrency calls run"
        )


def _tuple(given: Any) -> tuple[Any, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, (type, str))
    return tuple(given) if several else (given,)


def hosted_class(value: Any) -> type | None:
    """Return the service class of an object that is none, such as ``aiorpc.http.Gateway``."""
    if not hasattr(type(value), "__aiorpc_service__"):  # a mock has every attribute
        return None
    service: type = value.__aiorpc_service__()
    return service


def service_name_of(service_cls: type) -> str:
    """
    Return the ``name`` of a service class.

    Raises:
        ConfigurationError: the class has no name, or an empty name, or it is no class.
    """
    if not isinstance(service_cls, type):
        raise ConfigurationError(
            f"a service is a class, not a value of type {type(service_cls).__name__}: give the "
            "class, without parentheses"
        )
    name = getattr(service_cls, "name", None)
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"{service_cls.__module__}.{service_cls.__qualname__} is not a service: give it a "
            f'class attribute `name`, a string, for example name = "{service_cls.__name__.lower()}"'
        )
    return name

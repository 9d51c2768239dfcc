"""
The methods that a gateway offers: which, what they take, and what they return. Reads classes and
signatures; nothing here awaits.

A request's body is one JSON object: each member is an argument, by the parameter's name. The
arguments of a method whose signature is known are checked and converted here, by the rules of the
services (:mod:`aiorpc.wire.arguments`), before the broker is asked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from ..declarations import remote_names
from ..exceptions import BadArguments, ConfigurationError, IncorrectSignature, likely
from ..extensions import Entrypoint, entrypoints_of, service_name_of
from ..wire.arguments import Arguments, result_converter
from ..wire.described import described
from ..wire.objects import fields_of
from .responses import json_of

__all__ = ["Exposed", "Operation", "Signature", "operations_of"]

#: What ``services`` of a gateway contains; see :class:`aiorpc.http.Gateway`.
Exposed: TypeAlias = (
    type
    | tuple[type, str]
    | tuple[type, Sequence[str]]
    | tuple[type, str, Sequence[str]]
    | tuple[str, Sequence[str]]
)
Mode: TypeAlias = Literal["strict", "lax", "off"]

_KINDS = inspect.Parameter


class Signature:
    """
    The signature of *function*: its parameters, how a body becomes arguments, and its result.

    Args:
        name: ``service.method``, for errors.
        mode: whether the types of arguments are checked; see :class:`~aiorpc.wire.Arguments`.
        skip_self: whether *function* belongs to a class.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, mode: Mode, *, skip_self: bool
    ) -> None:
        found = described(function, skip_self=skip_self)
        self.is_stream, self.text = found.is_stream, found.text
        #: The type of the result, or of the items of a stream.
        self.result = found.result
        self.mode = mode
        given = self.parameters = found.parameters
        self._bind = Arguments(
            function, skip_self=skip_self, mode=mode, name=name, base64=True
        ).bind
        self._convert = result_converter(function, name=name)
        self._positional = [each.name for each in given if each.kind is _KINDS.POSITIONAL_ONLY]
        self._either = [each.name for each in given if each.kind is _KINDS.POSITIONAL_OR_KEYWORD]
        self._rest = next((each.name for each in given if each.kind is _KINDS.VAR_POSITIONAL), None)
        self._name = name

    def arguments(self, body: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Return the arguments in *body*, checked and converted, as the wire carries them.

        Raises:
            IncorrectSignature, BadArguments: *body* does not fit the signature.
        """
        by_position: list[Any] = []
        if self._positional or self._rest is not None:
            body = dict(body)
            by_position = self._by_position(body)
        args, kwargs = self._bind(by_position, body)
        return tuple(map(_plain, args)), {name: _plain(value) for name, value in kwargs.items()}

    def _by_position(self, body: dict[str, Any]) -> list[Any]:
        """Move the arguments that have no name in a call from *body* to a list."""
        args = []
        rest = [] if self._rest is None else body.pop(self._rest, [])
        if not isinstance(rest, list):
            kind = type(rest).__name__
            raise BadArguments(f"{self._name}: argument {self._rest!r} must be list, got {kind}")
        for name in (*self._positional, *(self._either if rest else ())):
            if name in body:
                args.append(body.pop(name))
            elif rest:
                raise IncorrectSignature(
                    f"{self._name}: the call needs {name!r} too, because {self._rest!r} follows it"
                )
            else:
                break
        return args + rest

    def converted(self, result: Any) -> Any:
        """
        Return *result*, or an item of a stream, in the annotated type.

        Raises:
            MalformedReply: *result* does not fit the annotation.
        """
        return result if self._convert is None else self._convert(result)


class Operation(msgspec.Struct, frozen=True, eq=False):
    """A method of a service that a gateway offers. Without a signature, it is not checked."""

    service: str
    method: str
    signature: Signature | None
    #: Whether the method heeds idempotency keys; None: only the service knows.
    idempotent: bool | None = None
    sensitive: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path below that of the gateway."""
        return f"/rpc/{self.service}/{self.method}"

    @property
    def is_stream(self) -> bool:
        """Whether the method returns items; unknown without a signature."""
        return self.signature is not None and self.signature.is_stream

    def __str__(self) -> str:
        return f"{self.service}.{self.method}"

    def arguments(self, body: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Return the positional and the keyword arguments in *body*.

        Raises:
            IncorrectSignature, BadArguments: *body* does not fit the signature.
        """
        return ((), body) if self.signature is None else self.signature.arguments(body)

    def encoded(self, result: Any) -> bytes:
        """
        Return *result*, or an item of a stream, as JSON.

        Raises:
            MalformedReply: *result* does not fit the annotation.
            TypeError, ValueError: JSON has no form of *result*.
        """
        return json_of(result if self.signature is None else self.signature.converted(result))


def operations_of(services: Iterable[Exposed], mode: Mode) -> dict[tuple[str, str], Operation]:
    """
    Return the operations of *services*, by service and method.

    Raises:
        ConfigurationError: *services* are empty, or one of them has another form.
    """
    if isinstance(services, str | type) or not isinstance(services, Iterable):
        raise ConfigurationError(
            f"services of a Gateway is a list, got {services!r}: write "
            f"services=[{_shown(services)}]"
        )
    found: dict[tuple[str, str], Operation] = {}
    for given in services:
        for operation in _operations(given, mode):
            key = operation.service, operation.method
            if key in found:
                raise ConfigurationError(f"a Gateway has {operation} twice: remove one of them")
            found[key] = operation
    if not found:
        raise ConfigurationError(
            "a Gateway offers nothing by default: name its services, services=[Prices]"
        )
    return found


def _operations(given: Any, mode: Mode) -> Iterator[Operation]:
    interface, service, methods = _parts(given)
    for name in _names(interface, service, methods):
        if not service or not name or "/" in service + name:
            raise ConfigurationError(
                f"{service!r}, {name!r} cannot be a path of a Gateway: a name is not empty and has "
                "no slash"
            )
        if interface is None:
            yield Operation(service, name, None)
            continue
        declared = [
            each for each in entrypoints_of(interface) if each.method_name == name and each.remote
        ]
        signature = _signature(interface, service, name, mode, declared)
        idempotent = any(each.idempotent for each in declared) if declared else None
        sensitive = tuple(path for each in declared for path in each.sensitive_arguments)
        yield Operation(
            service, name, signature, False if signature.is_stream else idempotent, sensitive
        )


def _parts(given: Any) -> tuple[type | None, str, Sequence[Any] | None]:
    """Return the class, the service's name and the names of the methods in *given*."""
    match given:
        case type():
            return given, service_name_of(given), None
        case (type() as interface, str(service)):
            return interface, service, None
        case (type() as interface, str(service), list() | tuple() as methods):
            return interface, service, methods
        case (type() as interface, list() | tuple() as methods):
            return interface, service_name_of(interface), methods
        case (str(service), list() | tuple() as methods):
            return None, service, methods
    raise ConfigurationError(
        f"services of a Gateway has {given!r}: write a service class, (Protocol, "
        '"service"), or ("service", ["method"]) for a service without a class here'
    )


def _names(interface: type | None, service: str, methods: Sequence[Any] | None) -> Iterable[str]:
    known = [] if interface is None else remote_names(interface)
    if methods is None:
        if not known:
            assert interface is not None
            raise ConfigurationError(
                f"{interface.__qualname__} has no method that a Gateway could offer: mark one with "
                "@rpc"
            )
        return known
    for name in methods:
        if not isinstance(name, str):
            raise ConfigurationError(f"the methods of {service} are names, got {name!r}")
        if interface is not None and name not in known:
            raise ConfigurationError(
                f"{interface.__qualname__} has no method {name!r} with @rpc{likely(name, known)}"
            )
    return methods


def _signature(
    interface: type, service: str, name: str, mode: Mode, declared: Sequence[Entrypoint]
) -> Signature:
    checked = all(getattr(each, "validate", True) for each in declared)
    static = isinstance(inspect.getattr_static(interface, name), staticmethod)
    return Signature(
        getattr(interface, name),
        f"{service}.{name}",
        mode if checked else "off",
        skip_self=not static,
    )


def _shown(services: Any) -> str:
    return services.__name__ if isinstance(services, type) else '("service", ["method"])'


#: Values that the wire can carry as they are.
_KEPT = (datetime, date, time, timedelta, Decimal, UUID, bytes, bytearray, memoryview)
_LEAVES = frozenset((str, int, float, bool, type(None)))


def _plain(value: Any) -> Any:
    """Return *value* as the wire can carry it: objects become dicts, sets become lists."""
    if type(value) in _LEAVES:
        return value
    return msgspec.to_builtins(value, builtin_types=_KEPT, str_keys=True, enc_hook=fields_of)

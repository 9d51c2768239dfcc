"""
The values of a contract: services, methods, events, queues and routes, with JSON Schemas. Values
only; no I/O.

Schemas are JSON Schema draft 07, as AsyncAPI has them. A ``$ref`` names one of the contract's
``schemas``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

__all__ = [
    "HIDDEN",
    "Argument",
    "ConsumedQueue",
    "Contract",
    "Error",
    "Event",
    "HandledEvent",
    "Kind",
    "OfferedMethod",
    "OfferedRoute",
    "Schema",
    "Service",
    "in_order",
    "named_schemas",
]

T = TypeVar("T")

#: A JSON Schema. Empty: any value.
Schema: TypeAlias = dict[str, Any]

#: A keyword of ours: the schema has a default, which is secret, or which JSON does not have.
HIDDEN = "x-aiorpc-hidden-default"

Kind: TypeAlias = Literal[
    "positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"
]


class Argument(msgspec.Struct, frozen=True):
    """A parameter of a method. The schema may have the ``default``, or ``HIDDEN``."""

    name: str
    kind: Kind = "positional_or_keyword"
    required: bool = True
    schema: Schema = {}

    @property
    def variadic(self) -> bool:
        """Whether it takes any number of arguments."""
        return self.kind in ("var_positional", "var_keyword")

    @property
    def by_position(self) -> bool:
        """Whether a caller can pass it by position."""
        return self.kind in ("positional_only", "positional_or_keyword")

    @property
    def by_name(self) -> bool:
        """Whether a caller can pass it by name."""
        return self.kind in ("positional_or_keyword", "keyword_only")


class Error(msgspec.Struct, frozen=True):
    """An error that a method may answer with: ``expected_exceptions``. *path* has the module."""

    name: str
    path: str
    description: str = ""


class OfferedMethod(msgspec.Struct, frozen=True):
    """
    A method that callers call by its name.

    Attributes:
        result: the schema of the result, or of the items of a *stream*.
        checked: whether the service checks the arguments by their schemas.
        sensitive: arguments that no log may show.
    """

    name: str
    parameters: tuple[Argument, ...] = ()
    result: Schema = {}
    stream: bool = False
    idempotent: bool = False
    checked: bool = True
    errors: tuple[Error, ...] = ()
    sensitive: tuple[str, ...] = ()
    description: str = ""


class Event(msgspec.Struct, frozen=True):
    """An event that a service dispatches, and the methods that do."""

    event_type: str
    payload: Schema = {}
    methods: tuple[str, ...] = ()


class HandledEvent(msgspec.Struct, frozen=True):
    """A method that handles events. The queue exists as long as no handler has another name."""

    method: str
    source_service: str
    event_type: str
    handler_type: str
    queue: str
    payload: Schema = {}
    sensitive: tuple[str, ...] = ()
    description: str = ""


class ConsumedQueue(msgspec.Struct, frozen=True):
    """A method that handles the messages of a queue."""

    method: str
    queue: str
    payload: Schema = {}
    sensitive: tuple[str, ...] = ()
    description: str = ""


class OfferedRoute(msgspec.Struct, frozen=True):
    """
    A method that HTTP requests start.

    Attributes:
        verbs: methods of HTTP.
        path: with variables in braces: ``/books/{id}``.
        in_path: the names of these variables.
        body: the parameter that is the whole JSON body, if any.
    """

    method: str
    verbs: tuple[str, ...]
    path: str
    in_path: tuple[str, ...] = ()
    body: str | None = None
    parameters: tuple[Argument, ...] = ()
    result: Schema = {}
    stream: bool = False
    errors: tuple[Error, ...] = ()
    sensitive: tuple[str, ...] = ()
    description: str = ""


class Service(msgspec.Struct, frozen=True):
    """What one service offers, dispatches and handles."""

    name: str
    version: str = ""
    description: str = ""
    methods: tuple[OfferedMethod, ...] = ()
    events: tuple[Event, ...] = ()
    handlers: tuple[HandledEvent, ...] = ()
    consumers: tuple[ConsumedQueue, ...] = ()
    routes: tuple[OfferedRoute, ...] = ()

    @property
    def offered(self) -> tuple[OfferedMethod | OfferedRoute, ...]:
        """What callers call."""
        return *self.methods, *self.routes

    @property
    def queues(self) -> tuple[HandledEvent | ConsumedQueue, ...]:
        """What consumes queues of its own."""
        return *self.handlers, *self.consumers


def in_order(parts: Iterable[T]) -> tuple[T, ...]:
    """Return methods, events, handlers, consumers or routes in the order of a contract."""
    names = ("name", "method", "event_type", "source_service", "queue", "path", "verbs")
    return tuple(sorted(parts, key=lambda part: [str(getattr(part, name, "")) for name in names]))


class Contract(msgspec.Struct, frozen=True):
    """Services by name, and the schemas that their schemas refer to."""

    services: dict[str, Service] = {}
    schemas: dict[str, Schema] = {}


def named_schemas(contract: Contract) -> Iterator[tuple[str, Schema]]:
    """Yield all schemas of *contract*, those of arguments with their names."""
    for service in contract.services.values():
        for each in service.offered:
            yield from ((argument.name, argument.schema) for argument in each.parameters)
            yield "", each.result
        yield from (("", event.payload) for event in service.events)
        yield from (("", message.payload) for message in service.queues)
    yield from (("", schema) for schema in contract.schemas.values())

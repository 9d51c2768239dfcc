"""
Describes service classes as a :class:`~aiorpc.contracts.model.Contract`. Reads classes, their
annotations, docstrings and source code; nothing here awaits or connects.

The attributes of an entrypoint say what it is, so this file does not import the rooms of
entrypoints and HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from ..declarations import service_name_of
from ..exceptions import ConfigurationError
from ..extensions import Entrypoint, entrypoints_of, providers_of
from ..wire.described import MethodDescription, Parameter as Read, described
from ..wire.message import Queue
from ..wire.names import event_exchange, event_queue
from ..wire.schemas import Schemas, default_of
from . import model
from .dispatched import Dispatched, dispatched_by
from .draft07 import draft07, with_keywords
from .hiding import hide_declared

__all__ = ["SCHEMAS_OF", "contract_of"]

#: The attribute of a method with schemas that its annotations do not have: functions without
#: arguments, by the argument's name, and ``return`` for the result.
SCHEMAS_OF = "__aiorpc_schemas__"

_SchemaOf: TypeAlias = Callable[[Any], model.Schema]
_KINDS: dict[Any, model.Kind] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional_or_keyword",
    inspect.Parameter.VAR_POSITIONAL: "var_positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
    inspect.Parameter.VAR_KEYWORD: "var_keyword",
}


def contract_of(service_classes: Iterable[type]) -> model.Contract:
    """
    Return the contract of *service_classes*.

    Raises:
        ConfigurationError: two classes have one name, or a class is not a service.
    """
    readers: dict[str, _Reader] = {}
    for each in service_classes:
        name = service_name_of(each)
        if name in readers and readers[name].service_cls is not each:
            other = readers[name].service_cls
            raise ConfigurationError(
                f"{other.__qualname__} and {each.__qualname__} both have the name {name!r}: a "
                "contract has one service of a name, so give one of the two another name"
            )
        readers[name] = _Reader(each)
    ordered = [readers[name] for name in sorted(readers)]
    schemas = Schemas(kind for reader in ordered for kind in reader.types())

    def schema_of(kind: Any) -> model.Schema:
        return draft07(schemas.of(kind))

    contract = model.Contract(
        {each.name: each.service(schema_of) for each in ordered},
        {name: draft07(schemas.components[name]) for name in sorted(schemas.components)},
    )
    hide_declared(contract)
    return contract


class _Reader:
    """Reads *service_cls* once: the types first, for the schemas of all services together."""

    def __init__(self, service_cls: type) -> None:
        self.service_cls = service_cls
        self.name = service_name_of(service_cls)
        self._entrypoints = sorted(entrypoints_of(service_cls), key=lambda each: each.method_name)
        self._read = {each: self._described(each) for each in self._entrypoints}
        providers = providers_of(service_cls)
        dispatchers = {each.attr_name for each in providers if getattr(each, "dispatches", False)}
        self._dispatched = dispatched_by(service_cls, dispatchers)

    def _described(self, entrypoint: Entrypoint) -> MethodDescription:
        name = entrypoint.method_name
        static = isinstance(inspect.getattr_static(self.service_cls, name), staticmethod)
        return described(getattr(self.service_cls, name), skip_self=not static)

    def types(self) -> Iterator[Any]:
        """Yield all types that need a schema."""
        for read in self._read.values():
            yield read.result
            for parameter in read.parameters:
                yield parameter.expected
        for each in self._dispatched:
            yield each.payload
            for _, kind in each.fields or ():
                yield kind

    def service(self, schema_of: _SchemaOf) -> model.Service:
        """Return the service, whose schemas are made by *schema_of*."""
        methods, handlers, consumers, routes = [], [], [], []
        for each, read in self._read.items():
            parts = _Parts(self.service_cls, each, read, schema_of)
            if each.remote:
                methods.append(parts.method())
            elif hasattr(each, "event_type"):
                handlers.append(parts.handler(self.name))
            elif isinstance(getattr(each, "queue", None), Queue):
                consumers.append(parts.consumer())
            elif hasattr(each, "exposed"):
                routes.append(parts.route())
        version = getattr(self.service_cls, "version", "")
        return model.Service(
            self.name,
            version if isinstance(version, str) else "",
            _own_text(self.service_cls),
            model.in_order(methods),
            model.in_order(_events(self._dispatched, schema_of)),
            model.in_order(handlers),
            model.in_order(consumers),
            model.in_order(routes),
        )


class _Parts:
    """Describes the method of one *entrypoint*, as *read*."""

    def __init__(
        self,
        service_cls: type,
        entrypoint: Entrypoint,
        read: MethodDescription,
        schema_of: _SchemaOf,
    ) -> None:
        self._service_cls = service_cls
        self._entrypoint: Any = entrypoint
        self._read = read
        self._schema_of = schema_of
        method = getattr(service_cls, entrypoint.method_name)
        self._others: dict[str, Callable[[], model.Schema]] = getattr(method, SCHEMAS_OF, {})

    def method(self) -> model.OfferedMethod:
        entrypoint = self._entrypoint
        return model.OfferedMethod(
            entrypoint.method_name,
            tuple(map(self._parameter, self._read.parameters)),
            self._schema("return", self._read.result),
            self._read.is_stream,
            bool(getattr(entrypoint, "idempotent", False)),
            bool(getattr(entrypoint, "validate", True)),
            self._errors(),
            self._sensitive(),
            self._read.text,
        )

    def handler(self, service: str) -> model.HandledEvent:
        entrypoint = self._entrypoint
        source, method = entrypoint.source_service, entrypoint.method_name
        queue = event_queue(
            event_exchange(source),
            source,
            entrypoint.event_type,
            listener=None if entrypoint.handler_type == "singleton" else f"{service}.{method}",
            instance="*" if entrypoint.handler_type == "broadcast" else None,
            reliable=entrypoint.reliable_delivery,
        )
        return model.HandledEvent(
            *(method, source, entrypoint.event_type, entrypoint.handler_type, queue.name),
            *(self._payload(), self._sensitive(), self._read.text),
        )

    def consumer(self) -> model.ConsumedQueue:
        entrypoint = self._entrypoint
        return model.ConsumedQueue(
            entrypoint.method_name,
            entrypoint.queue.name,
            self._payload(),
            self._sensitive(),
            self._read.text,
        )

    def route(self) -> model.OfferedRoute:
        exposed = self._entrypoint.exposed(self._service_cls)
        taken = [each for each in self._read.parameters if each.name in exposed.parameters]
        return model.OfferedRoute(
            self._entrypoint.method_name,
            tuple(exposed.methods),
            exposed.path,
            tuple(exposed.in_path),
            exposed.body,
            tuple(map(self._parameter, taken)),
            self._schema("return", self._read.result),
            self._read.is_stream,
            self._errors(),
            self._sensitive(),
            self._read.text,
        )

    def _parameter(self, read: Read) -> model.Argument:
        schema = with_keywords(self._schema(read.name, read.expected), default_of(read))
        return model.Argument(read.name, _KINDS[read.kind], read.required, schema)

    def _schema(self, name: str, kind: Any) -> model.Schema:
        if name in self._others:
            return draft07(self._others[name]())
        return self._schema_of(kind)

    def _payload(self) -> model.Schema:
        parameters = self._read.parameters
        return self._schema(parameters[0].name, parameters[0].expected) if parameters else {}

    def _sensitive(self) -> tuple[str, ...]:
        return tuple(sorted(self._entrypoint.sensitive_arguments))

    def _errors(self) -> tuple[model.Error, ...]:
        expected = self._entrypoint.expected_exceptions
        found = {f"{each.__module__}.{each.__qualname__}": each for each in expected}
        return tuple(
            model.Error(found[path].__name__, path, _own_text(found[path]))
            for path in sorted(found)
        )


def _events(dispatched: Iterable[Dispatched], schema_of: _SchemaOf) -> Iterator[model.Event]:
    """Yield the events by type. The payload is described if all places agree on it."""
    by_type: dict[str, list[Dispatched]] = {}
    for each in dispatched:
        by_type.setdefault(each.event_type, []).append(each)
    for event_type, places in sorted(by_type.items()):
        schemas = [_payload_of(each, schema_of) for each in places]
        payload = schemas[0] if all(each == schemas[0] for each in schemas) else {}
        methods = sorted({each.method for each in places})
        yield model.Event(event_type, payload, tuple(methods))


def _payload_of(dispatched: Dispatched, schema_of: _SchemaOf) -> model.Schema:
    if dispatched.fields is None:
        return schema_of(dispatched.payload)
    fields = {name: schema_of(kind) for name, kind in dispatched.fields}
    return {"type": "object", "properties": fields, "required": list(fields)}


def _own_text(cls: type) -> str:
    """Return the docstring of *cls* itself, not that of a base class."""
    text = vars(cls).get("__doc__")
    return inspect.cleandoc(text) if isinstance(text, str) else ""

"""
Writes a contract as an AsyncAPI 3 document. Pure functions.

One operation is one method, event, handler, consumer or route. What AsyncAPI has no word for is in
``x-aiorpc``. The document has no date and no version of aiorpc, so one contract has one text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from ..wire.names import event_exchange, rpc_queue_name
from .model import (
    Argument,
    ConsumedQueue,
    Contract,
    Error,
    Event,
    HandledEvent,
    OfferedMethod,
    OfferedRoute,
    Schema,
    Service,
)

__all__ = ["document_of", "text_of"]

#: Nameko's exchange for requests and answers.
_RPC = {"name": "nameko-rpc", "type": "topic", "durable": True, "autoDelete": False}
_BINDING = "0.3.0"
_NULL: Schema = {"type": "null"}


def text_of(contract: Contract) -> str:
    """Return the document as JSON, with sorted keys and a line break at the end."""
    return json.dumps(document_of(contract), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def document_of(contract: Contract) -> dict[str, Any]:
    """Return the document as plain data."""
    document = _Document()
    for service in contract.services.values():
        document.add(service)
    services = contract.services.values()
    versions = {each.version for each in services if each.version}
    content: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {
            "title": ", ".join(contract.services) or "no services",
            "version": versions.pop() if len(versions) == 1 else "1",
        },
        "defaultContentType": "application/json",
        "channels": document.channels,
        "operations": document.operations,
        "components": {"schemas": dict(contract.schemas)},
        "x-aiorpc": {
            "format": 1,
            "services": {
                each.name: _without_empty(version=each.version, description=each.description)
                for each in services
            },
        },
    }
    return content


class _Document:
    """The channels and the operations of a document."""

    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}

    def add(self, service: Service) -> None:
        for method in service.methods:
            self._method(service.name, method)
        for event in service.events:
            self._event(service.name, event)
        for handler in service.handlers:
            self._handler(service.name, handler)
        for consumer in service.consumers:
            self._consumer(service.name, consumer)
        for route in service.routes:
            self._route(service.name, route)

    def _method(self, service: str, method: OfferedMethod) -> None:
        name = f"{service}.{method.name}"
        payload = _request(method.parameters)
        channel = {
            "address": name,
            "messages": {"request": {"name": name, "payload": payload}},
            "bindings": _amqp("routingKey", exchange=_RPC),
            "x-aiorpc-queue": rpc_queue_name(service),
        }
        extra = {
            **_said(service, "method", method.name),
            "parameters": _kinds(method.parameters),
            **_without_empty(
                stream=method.stream,
                idempotent=method.idempotent,
                unchecked=not method.checked,
                sensitive=list(method.sensitive),
            ),
        }
        answers = {"result": {"name": f"{name}.result", "payload": _answer(method.result, _NULL)}}
        answers |= {each.path: _error(each) for each in method.errors}
        self._operation(name, "receive", channel, method.description, extra, answers)

    def _event(self, service: str, event: Event) -> None:
        name = f"{service}.{event.event_type}.event"
        channel = _event_channel(service, event.event_type, event.payload)
        extra = {**_said(service, "event", event.event_type), "methods": list(event.methods)}
        self._operation(name, "send", channel, "", extra)

    def _handler(self, service: str, handler: HandledEvent) -> None:
        name = f"{service}.{handler.method}.{handler.source_service}.{handler.event_type}.handler"
        channel = _event_channel(handler.source_service, handler.event_type, handler.payload)
        extra = {
            **_said(service, "handler", handler.method),
            "source_service": handler.source_service,
            "event_type": handler.event_type,
            "handler_type": handler.handler_type,
            "queue": handler.queue,
            **_without_empty(sensitive=list(handler.sensitive)),
        }
        self._operation(name, "receive", channel, handler.description, extra)

    def _consumer(self, service: str, consumer: ConsumedQueue) -> None:
        name = f"{service}.{consumer.method}.{consumer.queue}.consumer"
        channel = {
            "address": consumer.queue,
            "messages": {"message": {"name": consumer.queue, "payload": consumer.payload}},
            "bindings": _amqp("queue", queue={"name": consumer.queue}),
        }
        extra = {
            **_said(service, "consumer", consumer.method),
            "queue": consumer.queue,
            **_without_empty(sensitive=list(consumer.sensitive)),
        }
        self._operation(name, "receive", channel, consumer.description, extra)

    def _route(self, service: str, route: OfferedRoute) -> None:
        name = f"{service}.{route.method}.{','.join(route.verbs)} {route.path}.route"
        rest = [each for each in route.parameters if each.name not in route.in_path]
        payload = next((each.schema for each in rest if each.name == route.body), _by_name(rest))
        channel: dict[str, Any] = {
            "address": route.path,
            "messages": {"request": {"name": name, "payload": payload}},
        }
        if route.in_path:
            channel["parameters"] = {each: {} for each in route.in_path}
        extra = {
            **_said(service, "route", route.method),
            "verbs": list(route.verbs),
            "in_path": list(route.in_path),
            "parameters": msgspec.to_builtins(route.parameters),
            **_without_empty(body=route.body, stream=route.stream, sensitive=list(route.sensitive)),
        }
        answers = {"result": {"name": f"{name}.result", "payload": route.result}}
        answers |= {each.path: _error(each) for each in route.errors}
        bindings = {"http": {"method": route.verbs[0], "bindingVersion": _BINDING}}
        known = {"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"}
        operation = self._operation(name, "receive", channel, route.description, extra, answers)
        if route.verbs[0] in known:
            operation["bindings"] = bindings

    def _operation(
        self,
        name: str,
        action: str,
        channel: dict[str, Any],
        text: str,
        extra: Mapping[str, Any],
        answers: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add an operation and its channel; with *answers*, also the channel of the answers."""
        while name in self.channels:  # of a service and an event with odd names
            name += "_"
        self.channels[name] = channel
        operation = {
            "action": action,
            "channel": _ref("channels", name),
            "messages": [_ref("channels", name, "messages", each) for each in channel["messages"]],
            "x-aiorpc": dict(extra),
            **_without_empty(description=text),
        }
        if answers is not None:
            reply = f"{name}.reply"
            self.channels[reply] = {"address": None, "messages": dict(answers)}
            operation["reply"] = {
                "address": {"location": "$message.header#/replyTo"},
                "channel": _ref("channels", reply),
                "messages": [_ref("channels", reply, "messages", each) for each in answers],
            }
        self.operations[name] = operation
        return operation


def _said(service: str, kind: str, name: str) -> dict[str, str]:
    return {"service": service, "kind": kind, "name": name}


def _ref(*parts: str) -> dict[str, str]:
    escaped = (quote(each.replace("~", "~0").replace("/", "~1"), safe="~,") for each in parts)
    return {"$ref": "#/" + "/".join(escaped)}


def _amqp(kind: str, **parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"amqp": {"is": kind, "bindingVersion": _BINDING, **parts}}


def _event_channel(source: str, event_type: str, payload: Schema) -> dict[str, Any]:
    declared = event_exchange(source)
    exchange = {
        "name": declared.name,
        "type": declared.type,
        "durable": declared.durable,
        "autoDelete": declared.auto_delete,
    }
    return {
        "address": event_type,
        "messages": {"event": {"name": f"{source}.{event_type}", "payload": payload}},
        "bindings": _amqp("routingKey", exchange=exchange),
    }


def _request(parameters: Iterable[Argument]) -> Schema:
    """
    Return the schema of a request: arguments without a name in ``args``, the others in ``kwargs``.
    """
    positional = [each for each in parameters if each.kind == "positional_only"]
    rest = next((each.schema for each in parameters if each.kind == "var_positional"), None)
    args: Schema = {"type": "array", "minItems": sum(each.required for each in positional)}
    if positional:
        args["items"] = [each.schema for each in positional]
        args["additionalItems"] = False if rest is None else rest
    elif rest is not None:
        args["items"] = rest
    else:
        args["maxItems"] = 0
    named = [each for each in parameters if each.by_name or each.kind == "var_keyword"]
    properties = {"args": args, "kwargs": _by_name(named)}
    return {"type": "object", "properties": properties, "required": ["args", "kwargs"]}


def _by_name(parameters: Iterable[Argument]) -> Schema:
    """Return the schema of an object with *parameters*."""
    schema: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
    for each in parameters:
        if each.kind == "var_keyword":
            schema["additionalProperties"] = each.schema
        else:
            schema["properties"][each.name] = each.schema
            if each.required:
                schema.setdefault("required", []).append(each.name)
    return schema


def _kinds(parameters: Iterable[Argument]) -> list[dict[str, str]]:
    return [{"name": each.name, "kind": each.kind} for each in parameters]


def _answer(result: Schema, error: Schema) -> Schema:
    properties = {"result": result, "error": error}
    return {"type": "object", "properties": properties, "required": ["result", "error"]}


def _error(error: Error) -> dict[str, Any]:
    text: Schema = {"type": "string"}
    described = {
        "type": "object",
        "properties": {
            "exc_type": {"const": error.name},
            "exc_path": {"const": error.path},
            "exc_args": {"type": "array"},
            "value": text,
        },
        "required": ["exc_type", "exc_path", "exc_args", "value"],
    }
    return {
        "name": error.name,
        "payload": _answer(_NULL, described),
        **_without_empty(description=error.description),
        "x-aiorpc-error": msgspec.to_builtins(error),
    }


def _without_empty(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", None, False, [])}

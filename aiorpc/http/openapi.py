"""
Describes the methods of a gateway as an OpenAPI 3.1 document. Reads types; nothing here awaits or
does I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.types import Scope

from ..contracts.hiding import Place, hide_defaults, places_of
from ..wire.keys import LONGEST_KEY
from ..wire.schemas import PREFIX, Schemas, default_of
from .operations import Operation, Signature
from .problems import STATUSES

__all__ = ["Document"]

#: The name of a schema of ours. With a dot, it is never the name of a class.
_PROBLEM = "problem.json"
#: Statuses that the gateway answers by itself, beside those of ``STATUSES``.
_OWN = (413, 415)
#: Codes whose statuses a method never answers: a client that went away, and reserved ones.
_NEVER = frozenset(("canceled", "already_exists", "unauthenticated", "permission_denied"))
_STREAM_TYPES = ("application/x-ndjson", "text/event-stream")
#: OpenAPI 3.1 describes no items of a stream.
_ITEMS = (
    "The items, each a line of JSON or, by the header Accept, an event. The schema is of one item."
)
_KEY = "Idempotency-Key"
#: While the first request with a key runs, and for another body under the same key.
_OF_KEYS = frozenset({"409", "422"})
_PARAMETERS = {
    _KEY: {
        "name": _KEY,
        "in": "header",
        "description": "Requests with the same key run once, and get the same answer.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    },
    "Connect-Timeout-Ms": {
        "name": "Connect-Timeout-Ms",
        "in": "header",
        "description": "Milliseconds that the client waits. The server's own limit stays.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
    },
    "grpc-timeout": {
        "name": "grpc-timeout",
        "in": "header",
        "description": "The same in gRPC's form, for example 500m for 500 ms.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"},
    },
}


class Document:
    """
    The OpenAPI document of *operations*.

    Args:
        info: title and version.
        public: whether everybody may call, so that no request gets 401 or 403.
        statuses: that the user chose for remote errors.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        info: Mapping[str, str],
        public: bool,
        statuses: Iterable[int],
    ) -> None:
        operations = list(operations)
        self._schemas = Schemas(_types_of(operations))
        answered = {status for code, status in STATUSES.items() if code not in _NEVER}
        answered |= {*_OWN, *statuses}
        if not public:
            answered |= {401, 403}
        self._responses = {str(status): _response(status) for status in sorted(answered)}
        bodies = {each: self._body(each.signature) for each in operations if each.signature}
        self._hide_defaults(bodies)
        of_keys = () if all(each.idempotent is False for each in operations) else _OF_KEYS
        self._content = {
            "openapi": "3.1.0",
            "info": info,
            "paths": {each.path: {"post": self._operation(each, bodies)} for each in operations},
            "components": {
                "schemas": {**self._schemas.components, _PROBLEM: _problem_schema()},
                "parameters": _PARAMETERS,
                "responses": {
                    **self._responses,
                    **{each: _response(int(each)) for each in of_keys},
                },
            },
        }

    def content(self, scope: Scope) -> dict[str, Any]:
        """Return the document; its server is where the gateway is mounted by *scope*."""
        return {**self._content, "servers": [{"url": scope.get("root_path") or "/"}]}

    def encoded(self, scope: Scope) -> bytes:
        """Return the document as JSON."""
        return msgspec.json.encode(self.content(scope))

    def _hide_defaults(self, bodies: Mapping[Operation, dict[str, Any]]) -> None:
        places: list[Place] = []
        for operation, body in bodies.items():
            by_name, others = {}, None
            for each in operation.signature.parameters if operation.signature else ():
                # The components have the types of all arguments, the body only those it checks.
                both = [body["properties"].get(each.name, {}), self._schemas.of(each.expected)]
                by_name[each.name] = {"allOf": both}
                if each.kind is inspect.Parameter.VAR_KEYWORD:
                    others = by_name[each.name]
            places += places_of(operation.sensitive, by_name, others)
        hide_defaults(places, bodies.values(), self._schemas.components)

    def _operation(
        self, operation: Operation, bodies: Mapping[Operation, dict[str, Any]]
    ) -> dict[str, Any]:
        signature = operation.signature
        summary, _, text = ("" if signature is None else signature.text).partition("\n")
        description = "\n\n".join(filter(None, (text.strip(), _note(signature))))
        body = bodies.get(operation, {"type": "object"})
        result = {"schema": {} if signature is None else self._schemas.of(signature.result)}
        kinds = _STREAM_TYPES if operation.is_stream else ("application/json",)
        parameters, statuses = [*_PARAMETERS], {*self._responses}
        if operation.idempotent is False:
            parameters.remove(_KEY)
        else:
            statuses |= _OF_KEYS
        described: dict[str, Any] = {
            "operationId": str(operation),
            "tags": [operation.service],
            "summary": summary or str(operation),
            "parameters": [{"$ref": f"#/components/parameters/{each}"} for each in parameters],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": body}},
            },
            "responses": {
                "200": {
                    "description": _ITEMS if operation.is_stream else "The result of the method.",
                    "content": dict.fromkeys(kinds, result),
                },
                **{each: {"$ref": f"#/components/responses/{each}"} for each in sorted(statuses)},
            },
        }
        if description:
            described["description"] = description
        if signature is None:
            described["x-aiorpc-unchecked"] = True
        if operation.is_stream:
            described["x-aiorpc-stream"] = True
        return described

    def _body(self, signature: Signature) -> dict[str, Any]:
        """Return the schema of the object with the arguments."""
        body: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
        for parameter in signature.parameters:
            schema = {} if signature.mode == "off" else self._schemas.of(parameter.expected)
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                body["additionalProperties"] = schema
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                body["properties"][parameter.name] = {"type": "array", "items": schema}
            else:
                body["properties"][parameter.name] = {**schema, **default_of(parameter)}
        if required := [each.name for each in signature.parameters if each.required]:
            body["required"] = required
        return body


def _types_of(operations: Iterable[Operation]) -> Iterable[Any]:
    for operation in operations:
        if operation.signature is not None:
            yield operation.signature.result
            for parameter in operation.signature.parameters:
                yield parameter.expected


def _note(signature: Signature | None) -> str:
    if signature is None:
        return (
            "Only the service checks the arguments: the gateway does not know the signature of "
            "this method."
        )
    if signature.mode == "off":
        return "Only the service checks the types of the arguments; the gateway checks the names."
    return ""


def _response(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase if status in _PHRASES else "An error",
        "content": {"application/problem+json": {"schema": {"$ref": PREFIX + _PROBLEM}}},
    }


_PHRASES = frozenset(HTTPStatus)


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "title": "Problem",
        "description": "An error (RFC 9457). The call id finds the call in the log.",
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": list(STATUSES)},
            "detail": text,
            "errors": {"description": "Messages by argument and field."},
            "call_id": text,
        },
        "required": ["type", "title", "status", "code", "detail"],
    }

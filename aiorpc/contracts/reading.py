"""
Reads a contract from the document that ``writing`` wrote. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from ..exceptions import ConfigurationError
from .checking import require_sound
from .hiding import hide_declared
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
    in_order,
)
from .packing import unpacked

__all__ = ["contract_from", "read"]


def read(text: str | bytes, where: str) -> Contract:
    """
    Return the contract in *text*.

    Args:
        where: names the text in errors.

    Raises:
        ConfigurationError: *text* is no contract that ``aiorpc contract`` wrote.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{where} is not JSON ({exc}): write it again{_HOW}") from None
    return contract_from(document, where)


#: How to make a contract, for errors.
_HOW = " with `aiorpc contract MODULE -o FILE`"


def contract_from(document: Any, where: str) -> Contract:
    """
    Return the contract that *document* describes, which may be packed; see :func:`read`.

    Raises:
        ConfigurationError: *document* is no contract that ``aiorpc contract`` wrote.
    """
    try:
        document = unpacked(document)
    except (ValueError, RecursionError) as exc:
        raise _damaged(where, exc) from None
    made = document.get("x-aiorpc") if isinstance(document, dict) else None
    if not isinstance(made, dict):
        raise ConfigurationError(
            f"{where} is not a contract of aiorpc, because it has no x-aiorpc: make one{_HOW}"
        )
    if made.get("format") != 1:
        raise ConfigurationError(
            f"{where} has the format {made.get('format')!r}, and this aiorpc reads format 1: "
            f"update aiorpc, or make the contract again{_HOW}"
        )
    try:
        contract = _contract(document)
        contract = msgspec.convert(msgspec.to_builtins(contract), Contract)  # checks all types
        require_sound(contract)
        hide_declared(contract)  # an older aiorpc, or another program, may have made it
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as exc:
        raise _damaged(where, exc) from exc
    return contract


def _damaged(where: str, error: Exception) -> ConfigurationError:
    text = f"{where} is damaged ({type(error).__name__}: {error}): make it again{_HOW}"
    return ConfigurationError(text)


def _contract(document: Mapping[str, Any]) -> Contract:
    parts: dict[tuple[str, str], list[Any]] = {}
    for operation in document["operations"].values():
        said = operation["x-aiorpc"]
        make = _MAKE[said["kind"]]
        made = make(_Operation(document, operation))
        parts.setdefault((said["service"], said["kind"]), []).append(made)
    services = {}
    for name, about in sorted(document["x-aiorpc"]["services"].items()):
        own = {kind: in_order(parts.get((name, kind), ())) for kind in _MAKE}
        services[name] = Service(
            name,
            about.get("version", ""),
            about.get("description", ""),
            *(own["method"], own["event"], own["handler"], own["consumer"], own["route"]),
        )
    return Contract(services, dict(document["components"]["schemas"]))


class _Operation:
    """An operation of a document."""

    def __init__(self, document: Mapping[str, Any], operation: Mapping[str, Any]) -> None:
        self._document = document
        self._operation = operation
        self.said: Mapping[str, Any] = operation["x-aiorpc"]
        self.description: str = operation.get("description", "")

    @property
    def payload(self) -> Schema:
        """The schema of the only message of the operation."""
        (message,) = self._operation["messages"]
        payload: Schema = self._at(message)["payload"]
        return payload

    @property
    def address(self) -> str:
        """The address of the channel."""
        address: str = self._at(self._operation["channel"])["address"]
        return address

    @property
    def result(self) -> Schema:
        """The schema of the first answer."""
        result: Schema = self._at(self._operation["reply"]["messages"][0])["payload"]
        return result

    @property
    def sensitive(self) -> tuple[str, ...]:
        return tuple(self.said.get("sensitive", ()))

    @property
    def errors(self) -> tuple[Error, ...]:
        answers = [self._at(each) for each in self._operation["reply"]["messages"][1:]]
        return tuple(msgspec.convert(each["x-aiorpc-error"], Error) for each in answers)

    def _at(self, reference: Mapping[str, str]) -> Any:
        found: Any = self._document
        for part in reference["$ref"].removeprefix("#/").split("/"):
            found = found[unquote(part).replace("~1", "/").replace("~0", "~")]
        return found


def _method(operation: _Operation) -> OfferedMethod:
    said, request = operation.said, operation.payload["properties"]
    return OfferedMethod(
        said["name"],
        _parameters(said["parameters"], request["args"], request["kwargs"]),
        operation.result["properties"]["result"],
        said.get("stream", False),
        said.get("idempotent", False),
        not said.get("unchecked", False),
        operation.errors,
        operation.sensitive,
        operation.description,
    )


def _parameters(
    kinds: Iterable[Mapping[str, Any]], args: Schema, kwargs: Schema
) -> tuple[Argument, ...]:
    positional = args.get("items", {})
    rest = args.get("additionalItems", {}) if isinstance(positional, list) else positional
    required = {*kwargs.get("required", ())}
    found = []
    for number, each in enumerate(kinds):
        name, kind = each["name"], each["kind"]
        if kind == "positional_only":  # these come first
            found.append(Argument(name, kind, number < args["minItems"], positional[number]))
        elif kind == "var_positional":
            found.append(Argument(name, kind, False, rest))
        elif kind == "var_keyword":
            found.append(Argument(name, kind, False, kwargs["additionalProperties"]))
        else:
            found.append(Argument(name, kind, name in required, kwargs["properties"][name]))
    return tuple(found)


def _event(operation: _Operation) -> Event:
    said = operation.said
    return Event(said["name"], operation.payload, tuple(said["methods"]))


def _handler(operation: _Operation) -> HandledEvent:
    said = operation.said
    return HandledEvent(
        *(said["name"], said["source_service"], said["event_type"], said["handler_type"]),
        *(said["queue"], operation.payload, operation.sensitive, operation.description),
    )


def _consumer(operation: _Operation) -> ConsumedQueue:
    said = operation.said
    return ConsumedQueue(
        said["name"],
        said["queue"],
        operation.payload,
        operation.sensitive,
        operation.description,
    )


def _route(operation: _Operation) -> OfferedRoute:
    said = operation.said
    return OfferedRoute(
        said["name"],
        tuple(said["verbs"]),
        operation.address,
        tuple(said["in_path"]),
        said.get("body"),
        msgspec.convert(said["parameters"], tuple[Argument, ...]),
        operation.result,
        said.get("stream", False),
        operation.errors,
        operation.sensitive,
        operation.description,
    )


_MAKE: Mapping[str, Any] = {
    "method": _method,
    "event": _event,
    "handler": _handler,
    "consumer": _consumer,
    "route": _route,
}

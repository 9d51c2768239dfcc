"""
Asks a service what its methods take and return. Awaits the transport.

A page asks when it shows a method, because a contract is larger than all figures of a look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec.structs import replace

from ..config.redaction import MASK, redact
from ..contracts.model import Contract, Schema, Service
from ..contracts.reading import contract_from
from ..declarations import argument_path
from ..exceptions import ConfigurationError
from ..hosting.discovery.asking import Asker
from ..hosting.discovery.shapes import Promises, Question

__all__ = ["Describing", "Promised"]


class Promised(msgspec.Struct, kw_only=True):
    """
    What a service promises.

    Attributes:
        service: ``None`` if it does not tell.
        schemas: by name; the schemas of the service refer to them.
        why: why it does not tell.
    """

    service: Service | None = None
    schemas: dict[str, Schema] = {}
    why: str = ""


class Describing:
    """
    Asks one service after the other.

    Args:
        asker: asks nothing else, since it has the answers to one question at a time.
        wait: seconds to wait for the answers.
    """

    def __init__(self, asker: Asker, wait: float) -> None:
        self._asker, self._wait = asker, wait
        self._turn = asyncio.Lock()

    async def of(self, service: str) -> Promised:
        """
        Return what the running *service* promises. Of several instances, one is believed.

        Raises:
            ConnectionLost: the question could not be sent.
        """
        async with self._turn:
            answers = await self._asker.ask(Question.CONTRACT, self._wait, service)
        promises = [each for each in answers if isinstance(each, Promises)]
        why = (
            f"no contract came within {self._wait:g} s. Services of Nameko and of an earlier "
            "aiorpc send none"
        )
        for each in promises:
            if not each.documents:
                why = each.fault or "its contract is too large for one message"
                continue
            try:
                contract = contract_from(each.documents[0], f"the answer of {each.process}")
            except ConfigurationError as error:
                why = str(error)
                continue
            if service in contract.services:
                return _masked(contract, service)
        return Promised(why=why)


#: The parts of a service that have schemas.
_PARTS = ("methods", "events", "handlers", "consumers", "routes")


def _masked(contract: Contract, name: str) -> Promised:
    """Return the service *name* and its schemas, without the defaults that are secret."""
    service = contract.services[name]
    sensitive = frozenset(
        part
        for method in service.methods
        for path in method.sensitive
        for part in argument_path(path)
    )
    parts = {
        kind: tuple(_part(each, sensitive) for each in getattr(service, kind)) for kind in _PARTS
    }
    schemas = {each: _schema(schema, "", sensitive) for each, schema in contract.schemas.items()}
    return Promised(service=replace(service, **parts), schemas=schemas)


def _part(part: Any, sensitive: Collection[str]) -> Any:
    """Return a method, an event, a handler, a consumer or a route without secret defaults."""
    changed: dict[str, Any] = {
        each: _schema(getattr(part, each), "", sensitive)
        for each in ("result", "payload")
        if hasattr(part, each)
    }
    if hasattr(part, "parameters"):
        changed["parameters"] = tuple(
            replace(each, schema=_schema(each.schema, each.name, sensitive))
            for each in part.parameters
        )
    return replace(part, **changed)


def _schema(schema: Any, name: str, sensitive: Collection[str]) -> Any:
    """Return *schema*, of the argument or the field *name*, without secret defaults."""
    if isinstance(schema, list):
        return [_schema(each, name, sensitive) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for keyword, value in schema.items():
        if keyword == "default":
            is_secret = name in sensitive and value is not None
            found[keyword] = MASK if is_secret else redact(name, value)
        elif keyword == "properties":
            found[keyword] = {each: _schema(part, each, sensitive) for each, part in value.items()}
        else:
            found[keyword] = _schema(value, name, sensitive)
    return found

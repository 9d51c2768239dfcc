"""Puts the contracts of several services together. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..wire.schemas import PREFIX
from .model import Contract, Schema

__all__ = ["merged"]


def merged(contracts: Iterable[Contract]) -> Contract:
    """
    Return one contract with the services of *contracts*; of a service in several, the first. A
    schema whose name another service has for another schema gets the service's name too.
    """
    services: dict[str, Any] = {}
    schemas: dict[str, Schema] = {}
    for contract in contracts:
        new = {name: each for name, each in contract.services.items() if name not in services}
        taken = {
            name: f"{'.'.join(new)}.{name}"
            for name, schema in contract.schemas.items()
            if schemas.get(name, schema) != schema
        }
        if not new:
            continue
        if taken:
            contract = msgspec.convert(_renamed(msgspec.to_builtins(contract), taken), Contract)
        services |= {name: contract.services[name] for name in new}
        schemas |= {taken.get(name, name): each for name, each in contract.schemas.items()}
    return Contract(dict(sorted(services.items())), dict(sorted(schemas.items())))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return *value* with other references to the schemas in *names*."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix(PREFIX)
            return {**value, "$ref": PREFIX + names.get(name, name)}
        return {key: _renamed(each, names) for key, each in value.items()}
    return [_renamed(each, names) for each in value] if isinstance(value, list | tuple) else value

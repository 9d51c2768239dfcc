"""
Converts values from YAML to the type of a setting, with errors that name the place and the value.

Knows no setting by name. No I/O. Imports ``exceptions`` and msgspec.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from ..exceptions import ConfigurationError

__all__ = ["Decoder", "closest", "describe"]

_TYPE_NAMES = {bool: "true or false", float: "number", NoneType: "null", dict: "mapping"}


class Decoder:
    """
    Converts values. An error names the value by its path, such as ``DB_URIS['x:Base']``.

    ``source`` begins every error. Errors do not quote values under ``confidential`` top-level keys.
    ``unset`` are environment variables without a value; an error about null names them.
    """

    def __init__(
        self, source: str, confidential: Collection[str] = (), unset: Collection[str] = ()
    ) -> None:
        self.source = source
        self.confidential = confidential
        self.unset = unset

    def convert(self, value: Any, expected: Any, path: str) -> Any:
        """Convert ``value`` to the type ``expected``. Raises ``ConfigurationError``."""
        if expected is Any:
            return value
        if isinstance(value, enum.Enum):
            value = value.value  # ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_2
        if isinstance(value, dict) and (struct := _struct_in(expected)) is not None:
            return self._convert_struct(value, struct, path)
        if isinstance(value, dict) and (mapping := _arm(expected, dict)) is not None:
            key_type, item_type = get_args(mapping)
            return {
                self.convert(key, key_type, f"key {key!r} of {path}"): self.convert(
                    item, item_type, f"{path}[{key!r}]"
                )
                for key, item in value.items()
            }
        if isinstance(value, list) and (sequence := _arm(expected, list)) is not None:
            (item_type,) = get_args(sequence)
            return [
                self.convert(item, item_type, f"{path}[{index}]")
                for index, item in enumerate(value)
            ]
        try:
            return msgspec.convert(value, expected)
        except msgspec.ValidationError:
            raise self.error(
                f"{path} must be {describe(expected)}, got {self._show(value, path)}"
                f"{self._unset_hint(value)}"
            ) from None

    def error(self, text: str) -> ConfigurationError:
        """Return the error to raise about this source."""
        return ConfigurationError(f"{self.source}: {text}")

    def _convert_struct(
        self, value: Mapping[Any, Any], struct: type[msgspec.Struct], path: str
    ) -> msgspec.Struct:
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        for name in value:
            if name not in fields:
                raise self.error(f"unknown key {name!r} in {path}: {_remedy(str(name), fields)}")
        missing = [name for name, field in fields.items() if field.required and name not in value]
        if missing:
            raise self.error(f"{path} lacks {', '.join(missing)}")
        return struct(
            **{
                name: self.convert(item, fields[name].type, f"{path}.{name}")
                for name, item in value.items()
            }
        )

    def _show(self, value: Any, path: str) -> str:
        """Describe a value by type and text, or by the type alone if it is secret or long."""
        if value is None:
            return "null"
        text = repr(value)
        is_quotable = (
            isinstance(value, str | int | float)
            and len(text) <= 60
            and "://" not in text
            and not path.startswith(tuple(self.confidential))
        )
        return f"{type(value).__name__} {text}" if is_quotable else type(value).__name__

    def _unset_hint(self, value: Any) -> str:
        if value is not None or not self.unset:
            return ""
        names = ", ".join(sorted(set(self.unset)))
        return f" (not set in the environment, and without a default: {names})"


def closest(key: str, known: Collection[str]) -> str | None:
    """Return the known key that *key* probably misspells."""
    from difflib import get_close_matches

    by_lower_case = {name.lower(): name for name in known}
    # 0.83 takes AMQP_URL and DB_URL for AMQP_URI and DB_URI, but accepts AMQP_USER and TCP_TIMEOUT.
    matches = get_close_matches(key.lower(), by_lower_case, n=1, cutoff=0.83)
    return by_lower_case[matches[0]] if matches else None


def _remedy(key: str, known: Collection[str]) -> str:
    close = closest(key, known)
    return f"did you mean {close}?" if close else f"known are {', '.join(known)}"


def _arms(expected: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(expected) if get_origin(expected) in {UnionType, Union} else (expected,)


def _arm(expected: Any, origin: type) -> Any:
    """The arm of the union that is a ``dict[...]``, or a ``list[...]``."""
    return next((arm for arm in _arms(expected) if get_origin(arm) is origin), None)


def _struct_in(expected: Any) -> type[msgspec.Struct] | None:
    for arm in _arms(expected):
        if isinstance(arm, type) and get_origin(arm) is None and issubclass(arm, msgspec.Struct):
            return arm
    return None


def _is_null(expected: Any) -> bool:
    return expected is NoneType


def describe(expected: Any) -> str:
    """Describe a type for somebody who writes YAML: ``int >= 1 or null``."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Annotated:
        base, meta = arguments
        lower = f" >= {meta.ge}" if meta.ge is not None else f" > {meta.gt}"
        upper = f" and <= {meta.le}" if meta.le is not None else ""
        return f"{describe(base)}{lower}{upper}"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is list:
        return f"list of {describe(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping to {describe(arguments[1])}"
    if arguments:  # a union: null comes last
        return " or ".join(describe(arm) for arm in sorted(arguments, key=_is_null))
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        return f"mapping with {', '.join(expected.__struct_fields__)}"
    return _TYPE_NAMES.get(expected) or str(expected.__name__)

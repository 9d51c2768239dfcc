"""
Chooses marshmallow's fields for columns, in the schemas that are made for mapped classes.

Awaits nothing, and does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

from marshmallow import ValidationError, fields
from marshmallow.validate import Length
from marshmallow_sqlalchemy import ModelConverter
from marshmallow_sqlalchemy.exceptions import ModelConversionError
from sqlalchemy import Enum, inspect
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import CompositeProperty

__all__ = ["Binary", "ColumnConverter", "Duration", "uncarried"]


# marshmallow 3 has no generic fields, and `Raw` is a class without a parameter in 3 and 4.
class Binary(fields.Raw):
    """Bytes, unchanged, because a message can carry bytes. marshmallow's own field makes text."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValidationError("Not valid bytes.")
        return bytes(value)


class Duration(fields.TimeDelta):
    """Seconds, as in every message. The field of marshmallow 3 drops fractions of a second."""

    def _serialize(self, value: timedelta | None, *args: Any, **kwargs: Any) -> float | None:
        return None if value is None else value.total_seconds()

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> timedelta:
        try:
            return timedelta(seconds=float(value))
        except (TypeError, ValueError, OverflowError):
            raise self.make_error("invalid") from None


def _for_enum(_: Any, column_type: Any) -> Callable[..., fields.Field[Any]]:
    enum = column_type.enum_class
    return fields.Raw if enum is None else partial(_enum_field, enum=enum)


def _enum_field(*, validate: Iterable[Any] = (), **options: Any) -> fields.Field[Any]:
    # marshmallow-sqlalchemy 1.4 limits the length of a member, which has none (issue 673).
    others = [one for one in validate if not isinstance(one, Length)]
    return fields.Enum(by_value=True, validate=others, **options)


def _for_none(_: Any, column_type: Any) -> Any:
    raise ModelConversionError(f"no field carries {column_type!r}")


class ColumnConverter(ModelConverter):
    """marshmallow-sqlalchemy's converter without the fields that lose or break values."""

    SQLA_TYPE_MAPPING: dict[Any, Any] = {  # noqa: RUF012 - the base says so
        **ModelConverter.SQLA_TYPE_MAPPING,
        Enum: _for_enum,
        mysql.ENUM: _for_enum,
        mysql.SET: _for_none,  # its field, a List, needs the type of the items
        mysql.BIT: _for_none,  # its field, an Integer, is checked against a length
        postgresql.BIT: _for_none,  # the drivers have types of their own for its values
        postgresql.MONEY: _for_none,  # the server writes it as the text of its own locale
    }

    def property2field(self, prop: Any, **options: Any) -> Any:
        # The columns of a composite are attributes too.
        return (
            None if isinstance(prop, CompositeProperty) else super().property2field(prop, **options)
        )


def uncarried(model: type[Any]) -> list[str]:
    """The attributes of *model* for which ``ColumnConverter`` has no field, with their types."""
    converter = ColumnConverter()
    found = []
    for key, attribute in inspect(model).column_attrs.items():
        try:
            converter.property2field(attribute)
        except ModelConversionError:
            found.append(f"{key} ({type(attribute.columns[0].type).__name__})")
    return found

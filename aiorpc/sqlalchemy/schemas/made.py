"""
Finds the marshmallow schema that a user wrote, or makes one for a mapped class.

Awaits nothing, and does no I/O.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from marshmallow import Schema, ValidationError, fields, post_load
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema, auto_field
from marshmallow_sqlalchemy.exceptions import ModelConversionError
from sqlalchemy import inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper

from ...exceptions import ConfigurationError
from .columns import Binary, ColumnConverter, Duration, uncarried

__all__ = [
    "AnySchema",
    "as_schema",
    "nested_schema",
    "schema_for",
]

#: A schema, its class, or a mapped class, whose schema we make.
AnySchema: TypeAlias = Schema | type[Any]


def schema_for(model: type[Any]) -> type[SQLAlchemyAutoSchema[Any]]:
    """
    Make the schema of a mapped class: all its columns, foreign keys too, and no relationships. A
    dump has the column of ``polymorphic_on``; a load refuses that column. A dump has the value of
    an Enum, and seconds for a duration.

    Raises:
        ConfigurationError: *model* is not a mapped class, or has columns whose values no field
            carries. The text names them.
    """
    if model not in _schemas:
        _schemas[model] = _make_schema(model)
    return _schemas[model]


_schemas: dict[type, type[SQLAlchemyAutoSchema[Any]]] = {}
_instances: dict[type, Schema] = {}


def _make_schema(model: type[Any]) -> type[SQLAlchemyAutoSchema[Any]]:
    name = getattr(model, "__qualname__", repr(model))
    try:
        mapper = inspect(model, raiseerr=True)
        options = {"model": model, "dump_only": _discriminator(mapper)}
        return type(
            f"{model.__name__}Schema",
            (_MadeSchema,),
            {
                "Meta": type("Meta", (_MadeSchema.Meta,), options),
                **{key: auto_field(required=False) for key in _inherited_keys(mapper)},
            },
        )
    except NoInspectionAvailable:
        raise ConfigurationError(
            f"{name} is neither a marshmallow schema nor a class that SQLAlchemy maps"
        ) from None
    except ModelConversionError:
        raise ConfigurationError(
            f"cannot make a schema for {name}: no field carries {', '.join(uncarried(model))}. "
            "Write a SQLAlchemyAutoSchema that declares a field for each of them, or leaves it out "
            "by Meta.exclude, and give it in place of the class"
        ) from None


class _MadeSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        load_instance = True
        include_fk = True
        register = False
        model_converter = ColumnConverter

    @post_load
    def make_instance(self, data: Any, **kwargs: Any) -> Any:
        try:
            return super().make_instance(data, **kwargs)
        except TypeError as exc:
            if is_dataclass(self.opts.model):  # its __init__ requires arguments
                raise ValidationError(str(exc).removeprefix("__init__() ")) from exc
            raise


_MadeSchema.TYPE_MAPPING = {
    **SQLAlchemyAutoSchema.TYPE_MAPPING,
    bytes: Binary,
    timedelta: Duration,
}


def _discriminator(mapper: Mapper[Any]) -> tuple[str, ...]:
    """
    Find the attribute of ``polymorphic_on``. SQLAlchemy sets this attribute from the object's
    class, and a query fails at a row with an unknown value.
    """
    if mapper.polymorphic_on is None:
        return ()
    return tuple(
        key
        for key, attribute in mapper.column_attrs.items()
        if mapper.polymorphic_on in attribute.columns
    )


def _inherited_keys(mapper: Mapper[Any]) -> list[str]:
    """Parts of the primary key that belong to a parent class, whose schema makes them optional."""
    if mapper.inherits is None or mapper.concrete:
        return []
    parent = schema_for(mapper.inherits.class_)().fields
    return [
        key
        for key, attribute in mapper.column_attrs.items()
        if any(column in mapper.primary_key for column in attribute.columns)
        and key in parent
        and not parent[key].required
    ]


def as_schema(schema: AnySchema) -> Schema:
    """Return the schema object for a schema, a schema class, or a mapped class."""
    if isinstance(schema, Schema):
        return schema
    if schema not in _instances:
        _instances[schema] = (schema if issubclass(schema, Schema) else schema_for(schema))()
    return _instances[schema]


def nested_schema(field: fields.Field[Any]) -> Schema | None:
    """The nested schema of a field, or of the items in a list field. None: no nested schema."""
    if isinstance(field, fields.List):
        field = field.inner
    return field.schema if isinstance(field, fields.Nested) else None

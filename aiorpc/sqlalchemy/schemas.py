"""
ORM objects to plain data and back, by marshmallow-sqlalchemy.

marshmallow knows nothing of asyncio: a schema that reaches a relationship which is not loaded would
raise ``MissingGreenlet``. So schemas run where SQLAlchemy can wait (as ``session.run_sync`` does),
or, with ``lazy="raise"``, only over what is loaded.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from marshmallow import Schema, ValidationError, fields
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema, SQLAlchemySchema
from marshmallow_sqlalchemy.exceptions import ModelConversionError
from sqlalchemy import inspect
from sqlalchemy.engine import Row
from sqlalchemy.exc import MissingGreenlet, NoInspectionAvailable
from sqlalchemy.ext.asyncio import AsyncScalarResult, AsyncSession
from sqlalchemy.orm import InstanceState, Mapper, RelationshipProperty
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.util import greenlet_spawn

from ..exceptions import AioRpcError, BadArguments, ConfigurationError

__all__ = ["AnySchema", "Lazy", "NotLoaded", "dump", "load", "schema_for"]

#: A schema, its class, or a mapped class, for which a schema is made.
AnySchema: TypeAlias = Schema | type[Any]
Lazy: TypeAlias = Literal["load", "raise"]


class NotLoaded(AioRpcError):
    """A schema needs an attribute that is not loaded. The text names it and what loads it."""


async def dump(
    schema: AnySchema, value: Any, *, many: bool | None = None, lazy: Lazy = "load"
) -> Any:
    """
    ORM objects as plain data: a dict, or a list of dicts if *many*; None for None.

    Args:
        schema: a marshmallow schema, its class, or a mapped class (all its columns).
        many: None: as the schema says.
        lazy: what to do about attributes that are not loaded: ``load`` them one by one, in the
            session that the object belongs to, or ``raise``.

    Raises:
        NotLoaded: an attribute is not loaded, and *lazy* is ``raise`` or its session is closed.
    """
    if value is None:
        return None
    schema = as_schema(schema)
    many = bool(schema.many if many is None else many)
    value = await _collected(value, many)
    try:
        if lazy == "load":
            return await greenlet_spawn(schema.dump, value, many=many)
        _refuse_unloaded(schema, value if many else [value])
        return schema.dump(value, many=many)
    except DetachedInstanceError as exc:
        _refuse_unloaded(schema, value if many else [value])
        raise NotLoaded(f"{type(schema).__name__}: {exc}") from exc
    except MissingGreenlet as exc:
        raise NotLoaded(
            f"{type(schema).__name__} reads an attribute that is not loaded, by a property or a "
            'method: load it in the query, or dump with lazy="load"'
        ) from exc


async def load(
    schema: AnySchema,
    data: Any,
    session: AsyncSession | None = None,
    *,
    many: bool | None = None,
    name: str = "",
) -> Any:
    """
    Plain data as an ORM object, or as a list of them if *many*.

    Without a *session* the objects are new (transient), whatever *data* says. With one, an object
    whose primary key is in *data* is looked up and **changed**, as marshmallow-sqlalchemy does:
    give a session only for data whose sender may change any row that it names.

    Args:
        schema: a marshmallow schema, its class, or a mapped class (all its columns). It makes
            instances unless its ``Meta`` says ``load_instance = False``.
        name: what the data is called in errors.

    Raises:
        BadArguments: it is not valid; ``messages`` has marshmallow's, by field.
    """
    try:
        return await validated(schema, data, session, many=many)
    except ValidationError as exc:
        raise invalid({name: exc.messages} if name else exc.messages) from None


async def validated(
    schema: AnySchema, data: Any, session: AsyncSession | None, *, many: bool | None = None
) -> Any:
    """As :func:`load`, and raises marshmallow's own ``ValidationError``."""
    schema = as_schema(schema)
    many = schema.many if many is None else many
    if session is None:
        return _transient(schema).load(data, many=many)
    # The schema keeps its session in an attribute, and calls overlap.
    own = _loading_instances(_fresh(schema))
    if not isinstance(own, SQLAlchemySchema):
        return own.load(data, many=many)
    return await session.run_sync(
        lambda sync_session: own.load(data, session=sync_session, many=many)
    )


def invalid(messages: Any, where: str = "") -> BadArguments:
    """The error for marshmallow's *messages*, which are by field, list index or ``_schema``."""
    text = "; ".join(f"{path}: {message}" for path, message in _flat(messages, ""))
    return BadArguments(f"{where}: {text}" if where else text, _with_text_keys(messages))


def schema_for(model: type[Any]) -> type[SQLAlchemyAutoSchema[Any]]:
    """
    The schema of a mapped class: all its columns, foreign keys too, and no relationships.

    Raises:
        ConfigurationError: it is no mapped class, or has a column that marshmallow does not know.
    """
    if model not in _schemas:
        _schemas[model] = _make_schema(model)
    return _schemas[model]


_schemas: dict[type, type[SQLAlchemyAutoSchema[Any]]] = {}
_instances: dict[type, Schema] = {}


def _make_schema(model: type[Any]) -> type[SQLAlchemyAutoSchema[Any]]:
    name = getattr(model, "__qualname__", repr(model))
    try:
        inspect(model, raiseerr=True)
        meta = type(
            "Meta",
            (),
            {"model": model, "load_instance": True, "include_fk": True, "register": False},
        )
        return type(f"{model.__name__}Schema", (SQLAlchemyAutoSchema,), {"Meta": meta})
    except NoInspectionAvailable:
        raise ConfigurationError(
            f"{name} is neither a marshmallow schema nor a class that SQLAlchemy maps"
        ) from None
    except ModelConversionError as exc:
        raise ConfigurationError(
            f"no schema can be made for {name}: {exc}; write one, with a field for that column"
        ) from None


def as_schema(schema: AnySchema) -> Schema:
    """A schema of what users may write for one."""
    if isinstance(schema, Schema):
        return schema
    if schema not in _instances:
        cls = schema if issubclass(schema, Schema) else schema_for(schema)
        _instances[schema] = cls()
    return _instances[schema]


# Loading


@functools.lru_cache(maxsize=1024)
def _transient(schema: Schema) -> Schema:
    """A copy that makes new objects only, nested ones too. It keeps no state and can be shared."""
    copied = _loading_instances(_fresh(schema))
    for one in _with_nested(copied):
        if isinstance(one, SQLAlchemySchema):
            one.transient = True
    return copied


def _loading_instances(schema: Schema) -> Schema:
    """As the ``ModelSchema`` of old did; today one must say so, and it is silent if one forgets."""
    for one in _with_nested(schema):
        if isinstance(one, SQLAlchemySchema) and one.opts.model is not None:
            one._load_instance = getattr(one.Meta, "load_instance", True)
    return schema


def _fresh(schema: Schema) -> Schema:
    """The same schema with fields of its own, which find their session at their schema."""
    fresh = copy.copy(schema)
    fresh.declared_fields = copy.deepcopy(type(schema)._declared_fields)
    fresh._init_fields()
    return fresh


def _with_nested(schema: Schema, seen: set[int] | None = None) -> Iterator[Schema]:
    seen = set() if seen is None else seen
    if id(schema) in seen:
        return
    seen.add(id(schema))
    yield schema
    for field in schema.fields.values():
        if (nested := _nested_schema(field)) is not None and len(seen) < 100:
            yield from _with_nested(nested, seen)


def _nested_schema(field: fields.Field[Any]) -> Schema | None:
    if isinstance(field, fields.List):
        field = field.inner
    return field.schema if isinstance(field, fields.Nested) else None


# Dumping


async def _collected(value: Any, many: bool) -> Any:
    """The objects themselves, out of whatever a query gave."""
    if isinstance(value, AsyncScalarResult):
        value = [one async for one in value]
    if not many:
        if isinstance(value, list | tuple | set) and not isinstance(value, Row):
            raise ConfigurationError(
                f"a {type(value).__name__} was to be dumped by a schema for one object: add "
                "many=True"
            )
        return _entity(value)
    if isinstance(value, Mapping | str) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"one {type(value).__name__} was to be dumped by a schema for many objects: leave out "
            "many=True"
        )
    return [_entity(one) for one in value]


def _entity(value: Any) -> Any:
    """``execute(select(Author))`` gives rows of one author, where ``scalars`` gives authors."""
    return value[0] if isinstance(value, Row) and len(value) == 1 else value


def _refuse_unloaded(schema: Schema, values: Iterable[Any]) -> None:
    for value in values:
        for mapper, name in _unloaded(schema, value):
            raise NotLoaded(_remedy(schema, mapper, name, detached=inspect(value).detached))


def _unloaded(schema: Schema, value: Any) -> Iterator[tuple[Mapper[Any], str]]:
    """What *schema* reads of *value*, and of what is nested in it, that is not loaded."""
    state = inspect(value, raiseerr=False)
    if not isinstance(state, InstanceState) or state.transient or state.pending:
        return
    unloaded = state.unloaded
    for field_name, field in schema.dump_fields.items():
        if isinstance(field, fields.Function | fields.Method | fields.Constant):
            continue  # what these read, nobody can tell
        name = (field.attribute or field_name).partition(".")[0]
        if name in unloaded:
            yield state.mapper, name
        elif name in state.dict and (nested := _nested_schema(field)) is not None:
            inner = state.dict[name]
            for one in inner if isinstance(inner, list | tuple | set) else [inner]:
                yield from _unloaded(nested, one)


def _remedy(schema: Schema, mapper: Mapper[Any], name: str, *, detached: bool) -> str:
    attribute = f"{mapper.class_.__name__}.{name}"
    if isinstance(mapper.attrs[name], RelationshipProperty):
        remedy = f"add .options(selectinload({attribute})) to the query"
    else:
        remedy = (
            f"add .options(undefer({attribute})) to the query, or refresh the object if it expired"
        )
    why = "its session is closed" if detached else 'lazy="raise" forbids to load it now'
    return (
        f"{type(schema).__name__} needs {attribute}, which is not loaded, and {why}: {remedy}, or "
        f"take {name} out of the schema"
    )


# Messages


def _flat(messages: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(messages, Mapping):
        for key, inner in messages.items():
            yield from _flat(inner, _join(path, key))
    elif isinstance(messages, list | tuple):
        for inner in messages:
            yield from _flat(inner, path)
    else:
        yield path or "the data", str(messages)


def _join(path: str, key: Any) -> str:
    if key == "_schema":
        return path
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def _with_text_keys(messages: Any) -> Any:
    """As JSON can carry them."""
    if isinstance(messages, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in messages.items()}
    if isinstance(messages, list | tuple):
        return [_with_text_keys(inner) for inner in messages]
    return str(messages)

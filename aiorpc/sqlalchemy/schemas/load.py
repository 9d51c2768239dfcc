"""
Plain data to ORM objects.

A schema with a session looks rows up and changes them; without one it makes new objects only. A
schema keeps its session in an attribute, and calls overlap: each load has fields of its own.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any, cast

from marshmallow import Schema, ValidationError
from marshmallow_sqlalchemy import SQLAlchemySchema
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ...exceptions import BadArguments
from .made import AnySchema, as_schema, nesting_field, with_nested

__all__ = ["invalid", "load", "validated"]


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
    give a session only for data whose sender may change any row that it names. It is validated
    first, as a whole: what is not valid changes nothing.

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
    many = bool(schema.many if many is None else many)
    if session is None:
        return _transient(schema).load(data, many=many)
    return await session.run_sync(functools.partial(_load, _fresh(schema), data, many))


def _load(schema: Schema, data: Any, many: bool, session: Session) -> Any:
    """Into *session*; what is looked up is changed only if all of *data* is valid."""
    _prepare(schema, session, transient=True)
    if errors := schema.validate(data, many=many):
        raise ValidationError(cast("Any", errors))
    _prepare(schema, session, transient=False)
    return schema.load(data, many=many)


def invalid(messages: Any, where: str = "") -> BadArguments:
    """The error for marshmallow's *messages*, which are by field, list index or ``_schema``."""
    text = "; ".join(f"{path}: {message}" for path, message in _flat(messages, ""))
    return BadArguments(f"{where}: {text}" if where else text, _with_text_keys(messages))


@functools.lru_cache(maxsize=1024)
def _transient(schema: Schema) -> Schema:
    """A copy that makes new objects only, nested ones too. It keeps no state and can be shared."""
    fresh = _fresh(schema)
    _prepare(fresh, None, transient=True)
    return fresh


def _prepare(schema: Schema, session: Session | None, *, transient: bool) -> None:
    """
    Tell *schema* and all that is nested in it what to load into. Nested fields of
    marshmallow-sqlalchemy's hand it down themselves, those of marshmallow do not; and the former
    ask even a plain schema for it.
    """
    for one in with_nested(schema):
        if isinstance(one, SQLAlchemySchema):
            one.session = cast("Any", session)
            one.transient = transient
            if one.opts.model is not None and not hasattr(one.Meta, "load_instance"):
                # As the ``ModelSchema`` of old did; today it is silent if one forgets to say so.
                one._load_instance = True
        else:
            vars(one).update(session=session, transient=transient)


def _fresh(schema: Schema, depth: int = 0) -> Schema:
    """The same schema with fields of its own, which find their session at their schema."""
    fresh = copy.copy(schema)
    fresh.declared_fields = copy.deepcopy(type(schema)._declared_fields)
    fresh._init_fields()
    for field in fresh.fields.values():
        nesting = nesting_field(field)
        # A schema of a class is made for the field alone; an instance is shared by all.
        if nesting is not None and not isinstance(nesting.nested, type | str) and depth < 5:
            nesting._schema = _fresh(nesting.schema, depth + 1)
    return fresh


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

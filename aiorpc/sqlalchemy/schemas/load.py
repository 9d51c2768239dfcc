"""
Loads ORM objects from plain data. Awaits the database if the caller passes a session.

With a session, marshmallow-sqlalchemy looks up rows and changes them; without a session, it creates
new objects. A schema keeps its session in an attribute, and calls overlap, so each load uses a copy
of the schema.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from marshmallow import Schema, ValidationError, fields
from marshmallow_sqlalchemy import SQLAlchemySchema
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ...exceptions import BadArguments
from .depth import deep
from .made import AnySchema, as_schema

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
    Load plain data as an ORM object, or as a list of objects if *many*.

    Without a *session*, the objects are new (transient), whatever keys *data* has. With a session,
    marshmallow-sqlalchemy looks up an object whose primary key is in *data*, and **changes** that
    object: pass a session only if the sender may change any row. The schema validates all of *data*
    first; invalid data changes no row.

    Args:
        schema: a marshmallow schema, its class, or a mapped class (all its columns). The result has
            dicts if its ``Meta`` has ``load_instance = False``.
        many: whether *data* is a list. None: the schema's own ``many``. name: the name of the data
        in errors.

    Raises:
        BadArguments: the data is not valid; ``messages`` has marshmallow's messages by field.
    """
    try:
        return await validated(schema, data, session, many=many)
    except ValidationError as exc:
        raise invalid({name: exc.messages} if name else exc.messages) from None


async def validated(
    schema: AnySchema, data: Any, session: AsyncSession | None, *, many: bool | None = None
) -> Any:
    """Load like :func:`load`, but raise marshmallow's ``ValidationError``."""
    schema = as_schema(schema)
    many = bool(schema.many if many is None else many)
    try:
        with deep():
            if session is None:
                return _for_new_objects(schema).load(data, many=many)
            return await session.run_sync(functools.partial(_load, schema, data, many))
    except RecursionError:
        raise ValidationError("Nested too deep.") from None


def _load(schema: Schema, data: Any, many: bool, session: Session) -> Any:
    """Validate all of *data* without a query, then look up rows in *session* and change them."""
    if errors := _copied(schema, session, transient=True).validate(data, many=many):
        raise ValidationError(cast("Any", errors))
    return _copied(schema, session, transient=False).load(data, many=many)


@functools.lru_cache(maxsize=1024)
def _for_new_objects(schema: Schema) -> Schema:
    """Copy *schema* to create new objects. All loads share this copy, because it has no session."""
    return _copied(schema, None, transient=True)


def _copied(schema: Schema, session: Session | None, *, transient: bool) -> Schema:
    """
    Copy *schema*, with the arguments of its constructor, for loads into *session*.

    Fields are copied too, because a field takes the session from its own schema. A nested schema is
    copied at its first use, because a schema may nest itself.
    """
    own = copy.copy(schema)
    kinds = {kind: getattr(schema, kind) for kind in ("declared_fields", "fields", "load_fields")}
    originals = {id(field): field for named in kinds.values() for field in named.values()}
    copies = {key: _unbound(field, session, transient) for key, field in originals.items()}
    for kind, named in kinds.items():
        setattr(own, kind, {name: copies[id(field)] for name, field in named.items()})
    for name, field in own.fields.items():
        own._bind_field(name, field)
    if isinstance(own, SQLAlchemySchema):
        own.session = cast("Any", session)
        own.transient = transient
        if own.opts.model is not None and not hasattr(own.Meta, "load_instance"):
            # The old ModelSchema loaded instances too. Its successors load dicts by default.
            own._load_instance = True
    else:  # marshmallow-sqlalchemy's Nested reads these of any schema around it
        vars(own).update(session=session, transient=transient)
    return own


def _unbound(field: fields.Field[Any], session: Session | None, transient: bool) -> Any:
    """Copy *field*, and the fields inside it, so that a copied schema can bind the copy."""
    own: Any = copy.copy(field)
    own.parent = own.name = own.root = None
    inside = functools.partial(_unbound, session=session, transient=transient)
    match own:
        case fields.List():
            own.inner = inside(own.inner)
            own.only, own.exclude = None, ()
        case fields.Tuple():
            own.tuple_fields = [inside(one) for one in own.tuple_fields]
        case fields.Mapping():
            own.only, own.exclude = None, ()
            own.key_field = own.key_field and inside(own.key_field)
            own.value_field = own.value_field and inside(own.value_field)
        case fields.Enum():
            vars(own)["_deserialize"] = functools.partial(_by_value_or_name, own, own._deserialize)
        case fields.Nested() if isinstance(field, fields.Nested):
            own.nested = lambda: _copied(field.schema, session, transient=transient)
            # The original's schema has already applied the original's only and exclude.
            own.only, own.exclude, own._schema = None, (), None
    return own


def _by_value_or_name(
    field: Any, load: Callable[..., Any], value: Any, *more: Any, **kw: Any
) -> Any:
    """Load a member of an Enum in the form of *field*, or in the other form."""
    try:
        return load(value, *more, **kw)
    except ValidationError:
        other = {each.value: each for each in field.enum}
        if field.by_value:
            other = field.enum.__members__
        if isinstance(value, str | int) and value in other:
            return other[value]
        raise


def invalid(messages: Any, where: str = "") -> BadArguments:
    """Make an error of marshmallow's *messages*, by field, list index or ``_schema``."""
    text = "; ".join(f"{path}: {message}" for path, message in _flat(messages, ""))
    return BadArguments(f"{where}: {text}" if where else text, _with_text_keys(messages))


# Messages


def _flat(messages: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(messages, Mapping):
        for key, inner in messages.items():
            step = "" if key == "_schema" else f"[{key}]" if isinstance(key, int) else f".{key}"
            yield from _flat(inner, path + step)
    elif isinstance(messages, list | tuple):
        for inner in messages:
            yield from _flat(inner, path)
    else:
        yield path.removeprefix(".") or "the data", str(messages)


def _with_text_keys(messages: Any) -> Any:
    """Copy *messages*, with keys and values as JSON allows."""
    if isinstance(messages, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in messages.items()}
    if isinstance(messages, list | tuple):
        return [_with_text_keys(inner) for inner in messages]
    return str(messages)

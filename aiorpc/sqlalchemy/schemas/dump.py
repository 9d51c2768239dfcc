"""
ORM objects to plain data.

marshmallow knows nothing of asyncio: a schema that reaches a relationship which is not loaded would
raise ``MissingGreenlet``. So it runs where SQLAlchemy can wait, as in ``session.run_sync``; with
``lazy="raise"`` it runs over what is loaded only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from marshmallow import Schema, fields
from sqlalchemy import event, inspect
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncResult, AsyncScalarResult, async_session
from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState, RelationshipProperty
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.util import greenlet_spawn

from ...exceptions import AioRpcError, ConfigurationError
from ..session import CallSession
from .made import AnySchema, as_schema, nested_schema

__all__ = ["Lazy", "NotLoaded", "dump"]

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
    await _flush_what_will_be_committed(schema, value if many else [value], lazy)
    run = schema.dump if lazy == "load" else functools.partial(_dump_loaded, schema)
    try:
        # Where SQLAlchemy can wait for what it loads.
        return await greenlet_spawn(run, value, many=many)
    except DetachedInstanceError as exc:
        _refuse_unloaded(schema, value if many else [value])
        raise NotLoaded(f"{type(schema).__name__}: {exc}") from exc


async def _flush_what_will_be_committed(schema: Schema, values: Sequence[Any], lazy: Lazy) -> None:
    """
    The database gives keys and defaults, and the caller is to see them: ``commit=True`` sends the
    changes only when the result is encoded.
    """
    sessions = {state.session for state in map(_state_of, values) if state and state.session}
    for session in sessions:
        owner = async_session(session)
        if not isinstance(owner, CallSession) or not owner.commits_at_end:
            continue
        new = [inspect(one) for one in session.new]
        await owner.flush_pending()
        if new and lazy == "raise":
            await _load_rest_of(set(new), owner, schema, values)


async def _load_rest_of(
    new: set[InstanceState[Any]], session: CallSession, schema: Schema, values: Sequence[Any]
) -> None:
    """No query could have loaded what *schema* reads of objects that were not there before."""
    missing: dict[InstanceState[Any], list[str]] = {}
    for value in values:
        for state, name in _unloaded(schema, value):
            if state in new:
                missing.setdefault(state, []).append(name)
    for state, names in missing.items():
        await session.refresh(state.obj(), names)


async def _collected(value: Any, many: bool) -> Any:
    """The objects themselves, out of whatever a query gave."""
    if isinstance(value, AsyncResult | AsyncScalarResult):
        value = [one async for one in value]
    if not many:
        if isinstance(value, list | tuple | set | Iterator) and not isinstance(value, Row):
            raise ConfigurationError(
                f"a {type(value).__name__} was to be dumped by a schema for one object: add "
                "many=True, or take one() of a query's result"
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


def _dump_loaded(schema: Schema, value: Any, *, many: bool) -> Any:
    """Dump what is loaded. What fields read by methods of their own is caught when it loads."""
    values = value if many else [value]
    _refuse_unloaded(schema, values)
    refuse = functools.partial(_refuse_to_load, schema)
    sessions = {state.session for state in map(_state_of, values) if state and state.session}
    for session in sessions:
        event.listen(session, "do_orm_execute", refuse)
    try:
        return schema.dump(value, many=many)
    finally:
        for session in sessions:
            event.remove(session, "do_orm_execute", refuse)


def _refuse_to_load(schema: Schema, execution: ORMExecuteState) -> None:
    mapper = execution.bind_mapper
    if execution.is_relationship_load and execution.loader_strategy_path is not None:
        relationship = execution.loader_strategy_path[-1]
        if isinstance(relationship, RelationshipProperty):
            name = relationship.key
            raise NotLoaded(_remedy(schema, relationship.parent, name, detached=False))
    if execution.is_relationship_load or execution.is_column_load:
        raise NotLoaded(
            f"{type(schema).__name__} reads what is not loaded of "
            f"{mapper.class_.__name__ if mapper else 'an object'}, by a property or a method: "
            'load it in the query, refresh the object, or dump with lazy="load"'
        )


def _state_of(value: Any) -> InstanceState[Any] | None:
    state = inspect(value, raiseerr=False)
    return state if isinstance(state, InstanceState) else None


def _refuse_unloaded(schema: Schema, values: Iterable[Any]) -> None:
    for value in values:
        for state, name in _unloaded(schema, value):
            raise NotLoaded(_remedy(schema, state.mapper, name, detached=state.detached))


def _unloaded(schema: Schema, value: Any) -> Iterator[tuple[InstanceState[Any], str]]:
    """What *schema* reads of *value*, and of what is nested in it, that is not loaded."""
    state = _state_of(value)
    if state is None or state.transient or state.pending:
        return
    unloaded = state.unloaded
    for field_name, field in schema.dump_fields.items():
        if isinstance(field, fields.Function | fields.Method | fields.Constant):
            continue  # what these read, nobody can tell
        name = (field.attribute or field_name).partition(".")[0]
        if name in unloaded:
            yield state, name
        elif name in state.dict and (nested := nested_schema(field)) is not None:
            inner = state.dict[name]
            for one in inner if isinstance(inner, list | tuple | set) else [inner]:
                yield from _unloaded(nested, one)


def _is_set_by_the_database(mapper: Mapper[Any], name: str) -> bool:
    column = mapper.columns.get(name)
    if column is None:
        return False
    by_expression = [one for one in (column.default, column.onupdate) if one is not None]
    return bool(
        column.server_default is not None
        or column.server_onupdate is not None
        or any(one.is_clause_element for one in by_expression)
    )


def _remedy(schema: Schema, mapper: Mapper[Any], name: str, *, detached: bool) -> str:
    attribute = f"{mapper.class_.__name__}.{name}"
    if isinstance(mapper.attrs[name], RelationshipProperty):
        remedy = f"add .options(selectinload({attribute})) to the query"
    else:
        remedy = (
            f"add .options(undefer({attribute})) to the query, or refresh the object if it expired"
        )
        if _is_set_by_the_database(mapper, name):
            remedy += (
                ' (the database sets it: __mapper_args__ = {"eager_defaults": True} reads it when '
                "the row is written)"
            )
    why = "its session is closed" if detached else 'lazy="raise" forbids to load it now'
    return (
        f"{type(schema).__name__} needs {attribute}, which is not loaded, and {why}: {remedy}, or "
        f"take {name} out of the schema"
    )

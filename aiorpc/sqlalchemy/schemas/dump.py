"""
Dumps ORM objects as plain data. Awaits the database for attributes that are not loaded.

marshmallow cannot await. To load a relationship that a schema reads, SQLAlchemy needs a greenlet,
as in ``session.run_sync``; so the dump runs in a greenlet. With ``lazy="raise"`` the dump reads
only loaded attributes.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from marshmallow import Schema, fields
from sqlalchemy import event, inspect
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncResult, AsyncScalarResult, async_session
from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState, RelationshipProperty, Session
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.util import greenlet_spawn

from ...exceptions import AioRpcError, ConfigurationError
from ..session import CallSession
from .depth import deep
from .made import AnySchema, as_schema, nested_schema

__all__ = ["Lazy", "NotLoaded", "dump"]

Lazy: TypeAlias = Literal["load", "raise"]


class NotLoaded(AioRpcError):
    """A schema needs an attribute that is not loaded. The text says how to load the attribute."""


async def dump(
    schema: AnySchema, value: Any, *, many: bool | None = None, lazy: Lazy = "load"
) -> Any:
    """
    Dump ORM objects as plain data: a dict, or a list of dicts if *many*. Dump None as None.

    Args:
        schema: a marshmallow schema, its class, or a mapped class (all its columns).
        many: whether *value* has several objects. None: the schema's own ``many``. lazy: ``load``
        each missing attribute with a query, in the session of its object, or ``raise``.

    Raises:
        NotLoaded: an attribute is not loaded, and *lazy* is ``raise`` or the session is closed.
    """
    if value is None:
        return None
    schema = as_schema(schema)
    many = bool(schema.many if many is None else many)
    value = await _collected(value, many)
    await _flush_before_commit(schema, value if many else [value], lazy)
    run = schema.dump if lazy == "load" else functools.partial(_dump_loaded, schema)
    try:
        with deep():
            return await greenlet_spawn(run, value, many=many)
    except DetachedInstanceError as exc:
        _refuse_unloaded(schema, value if many else [value])
        raise NotLoaded(f"{type(schema).__name__}: {exc}") from exc


async def _flush_before_commit(schema: Schema, values: Sequence[Any], lazy: Lazy) -> None:
    """
    Flush the changes that ``commit=True`` commits after the dump, so that the dumped data has the
    keys and defaults from the database.
    """
    for session in _sessions_of(values):
        owner = async_session(session)
        if not isinstance(owner, CallSession) or not owner.commits_at_end:
            continue
        new = {inspect(one) for one in session.new}
        await owner.flush_pending()
        if lazy == "load" or not new:
            continue
        # No query in the method could load the server defaults of new objects, so load them here.
        missing: defaultdict[InstanceState[Any], list[str]] = defaultdict(list)
        for state, name in (found for value in values for found in _unloaded(schema, value)):
            if state in new:
                missing[state].append(name)
        for state, names in missing.items():
            await owner.refresh(state.obj(), names)


async def _collected(value: Any, many: bool) -> Any:
    """The objects in *value*, which may be the result of a query."""
    if isinstance(value, AsyncResult | AsyncScalarResult):
        value = [one async for one in value]
    if not many:
        if isinstance(value, list | tuple | set | Iterator) and not isinstance(value, Row):
            raise ConfigurationError(
                f"cannot dump a {type(value).__name__} with a schema for one object: add "
                "many=True, or take one() of a query's result"
            )
        return _entity(value)
    if isinstance(value, Mapping | str) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"cannot dump one {type(value).__name__} with a schema for many objects: leave out "
            "many=True"
        )
    return [_entity(one) for one in value]


def _entity(value: Any) -> Any:
    """Take the object out of a row with one column, as ``execute(select(Author))`` returns it."""
    return value[0] if isinstance(value, Row) and len(value) == 1 else value


def _dump_loaded(schema: Schema, value: Any, *, many: bool) -> Any:
    """
    Dump without a query, or raise ``NotLoaded``. A listener refuses the queries of fields such as
    ``fields.Function``, whose reads are not known beforehand.
    """
    values = value if many else [value]
    _refuse_unloaded(schema, values)
    refuse = functools.partial(_refuse_to_load, schema)
    sessions = _sessions_of(values)
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
            remedy = _remedy(schema, relationship.parent, relationship.key, detached=False)
            raise NotLoaded(remedy)
    if execution.is_relationship_load or execution.is_column_load:
        raise NotLoaded(
            f"{type(schema).__name__} reads, by a property or a method, an attribute of "
            f"{mapper.class_.__name__ if mapper else 'an object'} that is not loaded: "
            'load it in the query, refresh the object, or dump with lazy="load"'
        )


def _sessions_of(values: Iterable[Any]) -> set[Session]:
    return {state.session for state in map(_state_of, values) if state and state.session}


def _state_of(value: Any) -> InstanceState[Any] | None:
    state = inspect(value, raiseerr=False)
    return state if isinstance(state, InstanceState) else None


def _refuse_unloaded(schema: Schema, values: Iterable[Any]) -> None:
    for value in values:
        for state, name in _unloaded(schema, value):
            raise NotLoaded(_remedy(schema, state.mapper, name, detached=state.detached))


def _unloaded(schema: Schema, value: Any) -> Iterator[tuple[InstanceState[Any], str]]:
    """The unloaded attributes of *value* and of nested objects that *schema* needs."""
    state = _state_of(value)
    if state is None or state.transient or state.pending:
        return
    unloaded = state.unloaded
    for field_name, field in schema.dump_fields.items():
        if isinstance(field, fields.Function | fields.Method | fields.Constant):
            continue  # nobody knows which attributes these fields read
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
    defaults = (column.server_default, column.server_onupdate, column.default, column.onupdate)
    return any(
        one.is_server_default or one.is_clause_element for one in defaults if one is not None
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
    why = "its session is closed" if detached else 'lazy="raise" forbids loading it now'
    return (
        f"{type(schema).__name__} needs {attribute}, which is not loaded, and {why}: {remedy}, or "
        f"remove {name} from the schema"
    )

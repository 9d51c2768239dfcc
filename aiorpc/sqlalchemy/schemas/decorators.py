"""
``@returns`` and ``@accepts``: methods that return and take ORM objects, under ``@rpc``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, overload

from marshmallow import Schema, ValidationError
from marshmallow_sqlalchemy import SQLAlchemySchema
from sqlalchemy.ext.asyncio import AsyncSession

from ...exceptions import ConfigurationError
from ...extensions import providers_of
from ..methods import is_retried, require_coroutine_function
from ..providers import Database, DatabaseSession
from .dump import Lazy, dump
from .load import invalid, validated
from .made import AnySchema, as_schema

__all__ = ["accepts", "returns"]

P = ParamSpec("P")
R = TypeVar("R")

_Method = Callable[P, Coroutine[Any, Any, Any]]


@overload
def returns(
    schema: AnySchema, *, many: Literal[True], lazy: Lazy = "load"
) -> Callable[[_Method[P]], Callable[P, Coroutine[Any, Any, list[dict[str, Any]]]]]: ...
@overload
def returns(
    schema: AnySchema, *, many: bool | None = None, lazy: Lazy = "load"
) -> Callable[[_Method[P]], Callable[P, Coroutine[Any, Any, Any]]]: ...


def returns(schema: AnySchema, *, many: bool | None = None, lazy: Lazy = "load") -> Any:
    """
    Let a method return ORM objects; its caller gets plain data::

        @rpc
        @returns(AuthorSchema())
        async def get_author(self, author_id: int) -> Author | None:
            return await self.db.get(Author, author_id)

    They are dumped while the session is open.

    Args:
        schema: a marshmallow schema, its class, or a mapped class (all its columns).
        many: the method returns several, in a list or as a query's result. None: as the
            schema says.
        lazy: ``load`` what is not loaded, or ``raise``, naming what to load in the query.

    Raises:
        NotLoaded: an attribute is not loaded, and *lazy* is ``raise`` or its session is closed.
    """
    _require_schema(schema, "returns")

    def decorate(method: _Method[P]) -> Callable[P, Coroutine[Any, Any, Any]]:
        require_coroutine_function(method, "returns")

        @functools.wraps(method)
        async def dumping(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await dump(schema, await method(*args, **kwargs), many=many, lazy=lazy)

        _annotate(method, {"return": Any})
        return dumping

    return decorate


def accepts(
    *schemas: AnySchema,
    update: bool = False,
    session: str | None = None,
    **named: AnySchema,
) -> Callable[[Callable[..., Coroutine[Any, Any, R]]], Callable[..., Coroutine[object, None, R]]]:
    """
    Make ORM objects of a method's arguments before it runs::

        @rpc
        @accepts(author=AuthorSchema())
        async def add_author(self, author: Author) -> int:
            self.db.add(author)
            ...

    Args:
        schemas: for the first arguments, in their order; *named*: by the argument's name. A
            marshmallow schema (with ``many=True`` for lists), its class, or a mapped class.
        update: look objects up by the primary keys that arrive, and change them. Otherwise they
            are new (transient): adding one whose key exists is an ``IntegrityError``.
        session: the attribute that has the session for *update*; needed only where the service has
            more than one for the class.

    Raises:
        BadArguments: an argument is not valid; ``messages`` has marshmallow's, by argument and
            field.
        ConfigurationError: when the class is made: the method has no such argument, or
            ``@transaction_retry`` stands under an *update*, which belongs above it.
    """

    def decorate(
        method: Callable[..., Coroutine[Any, Any, R]],
    ) -> Callable[..., Coroutine[object, None, R]]:
        require_coroutine_function(method, "accepts")
        if update and is_retried(method):
            # A new attempt begins with a roll back, which undoes what was loaded before it.
            raise ConfigurationError(
                f"{method.__qualname__}: @accepts(update=True) above @transaction_retry would lose "
                "the changes when it tries again: put @transaction_retry above @accepts"
            )
        arguments = _arguments(method, schemas, named)

        @functools.wraps(method)
        async def loading(*args: Any, **kwargs: Any) -> R:
            given: dict[int | str, Any] = dict(enumerate(args))
            given.update(kwargs)
            messages: dict[str, Any] = {}
            for argument in arguments:
                place = argument.index if argument.index in given else argument.name
                if place not in given or argument.is_loaded(given[place]):
                    continue
                source = _session_of(args[0], argument, session) if update else None
                try:
                    given[place] = await validated(argument.schema, given[place], source)
                except ValidationError as exc:
                    messages[argument.name] = exc.messages
            if messages:
                raise invalid(messages, where=method.__qualname__)
            positional = (given[index] for index in range(len(args)))
            return await method(*positional, **{name: given[name] for name in kwargs})

        _annotate(method, {argument.name: argument.wire_type for argument in arguments})
        return loading

    return decorate


class _Argument:
    """One argument that a schema makes an object of."""

    def __init__(self, index: int, parameter: inspect.Parameter, schema: AnySchema) -> None:
        _require_schema(schema, "accepts")
        self.index = index
        self.name = parameter.name
        self.schema = schema
        self._may_be_none = parameter.default is None
        many = isinstance(schema, Schema) and schema.many
        #: What the sender sends; replaces an annotation that names a mapped class.
        self.wire_type: Any = list[dict[str, Any]] if many else dict[str, Any]

    @property
    def model(self) -> type[Any] | None:
        schema = as_schema(self.schema)
        return schema.opts.model if isinstance(schema, SQLAlchemySchema) else None

    def is_loaded(self, value: Any) -> bool:
        """Whether there is nothing to do: a test, or the service itself, passed objects."""
        if value is None:
            return self._may_be_none
        model = self.model
        if model is None:
            return False
        if isinstance(value, list):
            return bool(value) and all(isinstance(one, model) for one in value)
        return isinstance(value, model)


def _arguments(
    method: Callable[..., Any], schemas: tuple[AnySchema, ...], named: Mapping[str, AnySchema]
) -> list[_Argument]:
    parameters = list(inspect.signature(method).parameters.values())
    by_name = {
        parameter.name: (index, parameter)
        for index, parameter in enumerate(parameters)
        if index > 0 and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    if len(schemas) > len(by_name):
        raise ConfigurationError(
            f"@accepts has {len(schemas)} schemas, and {method.__qualname__} has {len(by_name)} "
            "arguments"
        )
    wanted = {**dict(zip(by_name, schemas, strict=False)), **named}
    for name in wanted:
        if name not in by_name:
            raise ConfigurationError(
                f"@accepts({name}=...): {method.__qualname__} has no argument {name}; it has "
                f"{', '.join(by_name) or 'none'}"
            )
    return [_Argument(*by_name[name], schema) for name, schema in wanted.items()]


def _session_of(service: Any, argument: _Argument, attribute: str | None) -> AsyncSession:
    """The session of *service* for the class of *argument*."""
    if attribute is None:
        attribute = _attribute_for(type(service), argument)
    value = getattr(service, attribute)
    if not isinstance(value, AsyncSession):  # of a Database, or of what stands in for one
        value = value.session
    assert isinstance(value, AsyncSession)
    return value


def _attribute_for(service_cls: type[Any], argument: _Argument) -> str:
    model = argument.model
    found = [
        provider.attr_name
        for provider in providers_of(service_cls)
        if isinstance(provider, Database | DatabaseSession)
        and (model is None or issubclass(model, provider.declarative_base))
    ]
    if not found:
        what = argument.model.__name__ if argument.model else argument.name
        raise ConfigurationError(
            f"@accepts({argument.name}=..., update=True): {service_cls.__name__} declares no "
            f'DatabaseSession for {what}; name the attribute, session="db"'
        )
    return found[0]


def _require_schema(schema: Any, decorator: str) -> None:
    if not isinstance(schema, Schema | type):
        raise ConfigurationError(
            f"@{decorator} takes a marshmallow schema or a mapped class, not a "
            f"{type(schema).__name__}"
        )


def _annotate(method: Callable[..., Any], annotations: Mapping[str, Any]) -> None:
    """
    Say what goes over the wire in place of what the method works with: a request is checked
    against the annotations, and a mapped class is nothing that can be checked.
    """
    try:
        method.__annotations__.update(annotations)
    except NameError:  # Python 3.14 evaluates them all; some name is not there yet
        method.__annotations__ = dict(annotations)

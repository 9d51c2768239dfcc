"""
``@returns`` and ``@accepts``, for methods under ``@rpc`` that return and take ORM objects.

Awaits the database through ``dump`` and ``load``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from marshmallow import Schema, ValidationError
from marshmallow_sqlalchemy import SQLAlchemySchema
from sqlalchemy.ext.asyncio import AsyncSession

from ...exceptions import ConfigurationError
from ...extensions import providers_of
from ..providers import CHECKS, Database, DatabaseSession, session_of
from ..retry import RETRIED, require_coroutine_function
from .described import described_as, may_be_none
from .dump import Lazy, dump
from .load import invalid, validated
from .made import AnySchema, as_schema

__all__ = ["accepts", "returns"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Returning(Protocol[R_co]):
    """The decorator of a coroutine method, or of an async generator."""

    @overload
    def __call__(
        self, method: Callable[P, Coroutine[Any, Any, Any]], /
    ) -> Callable[P, Coroutine[Any, Any, R_co]]: ...
    @overload
    def __call__(
        self, method: Callable[P, AsyncIterator[Any]], /
    ) -> Callable[P, AsyncIterator[R_co]]: ...


class Accepting(Protocol):
    """The decorator of a coroutine method, or of an async generator."""

    @overload
    def __call__(
        self, method: Callable[..., Coroutine[Any, Any, R]], /
    ) -> Callable[..., Coroutine[object, None, R]]: ...
    @overload
    def __call__(
        self, method: Callable[..., AsyncIterator[R]], /
    ) -> Callable[..., AsyncIterator[R]]: ...


@overload
def returns(
    schema: AnySchema, *, many: Literal[True], lazy: Lazy = "load"
) -> Returning[list[dict[str, Any]]]: ...
@overload
def returns(
    schema: AnySchema, *, many: bool | None = None, lazy: Lazy = "load"
) -> Returning[Any]: ...


def returns(schema: AnySchema, *, many: bool | None = None, lazy: Lazy = "load") -> Any:
    """
    Dump the ORM objects that a method returns, so that its caller gets plain data::

        @rpc
        @returns(AuthorSchema())
        async def get_author(self, author_id: int) -> Author | None:
            return await self.db.get(Author, author_id)

    The session is still open while the decorator dumps the objects. Of a stream, the decorator
    dumps each item.

    Args:
        schema: a marshmallow schema, its class, or a mapped class (all its columns).
        many: whether the method returns several objects, in a list or as a query's result. None:
            the schema's own ``many``.
        lazy: ``load`` missing attributes with a query, or ``raise`` an error that names them.

    Raises:
        NotLoaded: an attribute is not loaded, and *lazy* is ``raise`` or the session is closed.
    """
    _require_schema(schema, "returns")

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        dumped = functools.partial(dump, schema, many=many, lazy=lazy)
        dumping = _wrapped(method, "returns", after=dumped)
        streams = inspect.isasyncgenfunction(method)
        described_as(dumping, {"return": (schema, many, may_be_none(method))})
        _annotate(method, {"return": AsyncIterator[Any] if streams else Any})
        _check_at_start(dumping, schema)
        return dumping

    return decorate


def _wrapped(
    method: Callable[..., Any],
    decorator: str,
    *,
    before: Callable[..., Awaitable[inspect.BoundArguments]] | None = None,
    after: Callable[[Any], Awaitable[Any]] | None = None,
) -> Callable[..., Any]:
    """
    Return *method*, a coroutine function or an async generator, with *before* around its arguments
    and *after* around its result, or around each item.
    """

    async def arguments(args: Any, kwargs: Any) -> tuple[Any, Any]:
        if before is None:
            return args, kwargs
        bound = await before(*args, **kwargs)
        return bound.args, bound.kwargs

    @functools.wraps(method)
    async def streaming(*args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        args, kwargs = await arguments(args, kwargs)
        async with aclosing(method(*args, **kwargs)) as items:
            async for item in items:
                yield item if after is None else await after(item)

    @functools.wraps(method)
    async def awaiting(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = await arguments(args, kwargs)
        result = await method(*args, **kwargs)
        return result if after is None else await after(result)

    if inspect.isasyncgenfunction(method):
        return streaming
    require_coroutine_function(method, decorator)
    return awaiting


def accepts(
    *schemas: AnySchema,
    update: bool = False,
    session: str | None = None,
    **named: AnySchema,
) -> Accepting:
    """
    Load ORM objects from a method's arguments before it runs::

        @rpc
        @accepts(author=AuthorSchema())
        async def add_author(self, author: Author) -> int:
            self.db.add(author)
            ...

    Args:
        schemas: schemas of the first arguments, in order (*named*: by the argument's name). Each is
            a marshmallow schema (with ``many=True`` for lists), its class, or a mapped class.
        update: look up objects by the primary keys in the data, and change the objects. By default,
            the objects are new (transient): adding an object whose key exists is an
            ``IntegrityError``.
        session: the attribute with the session for *update*; needed only if the service has several
            sessions for the class.

    Raises:
        BadArguments: an argument is not valid; ``messages`` has marshmallow's messages by argument
            and field.
        ConfigurationError: the method has no such argument, or ``@transaction_retry`` is below an
            ``@accepts`` with *update*. Raised when Python creates the class.
    """
    return functools.partial(_accepting, schemas, named, update, session)


def _accepting(
    schemas: tuple[AnySchema, ...],
    named: Mapping[str, AnySchema],
    update: bool,
    session: str | None,
    method: Callable[..., Any],
) -> Callable[..., Any]:
    if update and getattr(method, RETRIED, False):
        # A retry begins with a roll back, which would undo the changes of the loaded objects.
        raise ConfigurationError(
            f"{method.__qualname__}: @accepts(update=True) above @transaction_retry loses its "
            "changes at a retry: put @transaction_retry above @accepts"
        )
    signature = inspect.signature(method)
    arguments = _arguments(method, schemas, named)

    async def loaded(*args: Any, **kwargs: Any) -> inspect.BoundArguments:
        bound = signature.bind_partial(*args, **kwargs)
        given = bound.arguments
        messages: dict[str, Any] = {}
        for argument in arguments:
            name = argument.name
            if name not in given or argument.is_loaded(given[name]):
                continue
            source = _session_for(args[0], argument, session) if update else None
            try:
                given[name] = await validated(argument.schema, given[name], source)
            except ValidationError as exc:
                messages[name] = exc.messages
        if messages:
            error = invalid(messages, where=method.__qualname__)
            error.refuses_call = True
            raise error
        return bound

    loading = _wrapped(method, "accepts", before=loaded)
    described_as(loading, {each.name: (each.schema, None, each.may_be_none) for each in arguments})
    _annotate(method, {argument.name: argument.wire_type for argument in arguments})
    _check_at_start(loading, *(argument.schema for argument in arguments))
    return loading


class _Argument:
    """An argument of a method, and its schema."""

    def __init__(self, parameter: inspect.Parameter, schema: AnySchema) -> None:
        _require_schema(schema, "accepts")
        self.name = parameter.name
        self.schema = schema
        self.may_be_none = parameter.default is None
        many = isinstance(schema, Schema) and schema.many
        #: The type of the argument in a message. It replaces an annotation with a mapped class.
        self.wire_type: Any = list[dict[str, Any]] if many else dict[str, Any]

    @property
    def model(self) -> type[Any] | None:
        schema = as_schema(self.schema)
        return schema.opts.model if isinstance(schema, SQLAlchemySchema) else None

    def is_loaded(self, value: Any) -> bool:
        """Whether *value* is already an ORM object, which a test or the service itself may pass."""
        if value is None:
            return self.may_be_none
        if (model := self.model) is None:
            return False
        values = value if isinstance(value, list) else [value]
        return bool(values) and all(isinstance(one, model) for one in values)


def _arguments(
    method: Callable[..., Any], schemas: tuple[AnySchema, ...], named: Mapping[str, AnySchema]
) -> list[_Argument]:
    parameters = list(inspect.signature(method).parameters.values())
    by_name = {
        parameter.name: parameter
        for parameter in parameters[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    if len(schemas) > len(by_name):
        raise ConfigurationError(
            f"@accepts has {len(schemas)} schemas, but {method.__qualname__} has {len(by_name)} "
            "arguments"
        )
    wanted = {**dict(zip(by_name, schemas, strict=False)), **named}
    for name in wanted:
        if name not in by_name:
            raise ConfigurationError(
                f"@accepts({name}=...): {method.__qualname__} has no argument {name}; it has "
                f"{', '.join(by_name) or 'none'}"
            )
    return [_Argument(by_name[name], schema) for name, schema in wanted.items()]


def _session_for(service: Any, argument: _Argument, attribute: str | None) -> AsyncSession:
    """The session of *service* for the class of *argument*."""
    model = argument.model
    found = [
        provider.attr_name
        for provider in providers_of(type(service))
        if isinstance(provider, Database | DatabaseSession)
        and (model is None or issubclass(model, provider.declarative_base))
    ]
    if not (attribute or found):
        raise ConfigurationError(
            f"@accepts({argument.name}=..., update=True): {type(service).__name__} declares no "
            f"DatabaseSession for {model.__name__ if model else argument.name}; name the "
            'attribute, session="db"'
        )
    session = session_of(getattr(service, attribute or found[0]))
    assert isinstance(session, AsyncSession)
    return session


def _require_schema(schema: Any, decorator: str) -> None:
    if not isinstance(schema, Schema | type):
        raise ConfigurationError(
            f"@{decorator} takes a marshmallow schema or a mapped class, not a "
            f"{type(schema).__name__}"
        )


def _check_at_start(method: Callable[..., Any], *schemas: AnySchema) -> None:
    """
    Make the schemas of mapped classes when the service starts, so that their errors are found then.
    They cannot be made earlier: classes that a mapped class refers to may not exist yet.
    """
    checks = [functools.partial(as_schema, one) for one in schemas if isinstance(one, type)]
    setattr(method, CHECKS, (*getattr(method, CHECKS, ()), *checks))


def _annotate(method: Callable[..., Any], annotations: Mapping[str, Any]) -> None:
    """
    Replace annotations of *method* by the types in a message: the container checks requests against
    the annotations, and cannot check plain data against a mapped class.
    """
    try:
        method.__annotations__.update(annotations)
    except NameError:  # Python 3.14 evaluates all annotations; a name may be undefined
        method.__annotations__ = dict(annotations)

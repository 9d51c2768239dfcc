"""
Arguments and results made what their annotations say. Pure; looks at functions once, at start.

JSON has few types: a dataclass arrives as an object, a tuple as an array, and whatever a kombu
before 5.3 sent as a string. :class:`Arguments` checks a request against a method's signature, as
Nameko does, and makes the values whole; :class:`Result` does the latter for a typed proxy.

msgspec does the converting (``msgspec.convert``), so what it supports is supported, and pydantic
models, recognised by their ``model_validate``. What cannot be checked is named in one warning and
passes as it came.
"""

from __future__ import annotations

import collections.abc
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Optional, get_args, get_origin, get_type_hints

from ..exceptions import BadArguments, IncorrectSignature, MalformedReply
from .conversion import Converter, Unfit, Unsupported, converter_of

__all__ = ["Arguments", "Result"]

log = logging.getLogger("aiorpc.arguments")

Mode = Literal["strict", "lax", "off"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """
    What one method takes.

    Made by :meth:`of` when a service starts; :meth:`bind` runs for every request. Decorators that
    use ``functools.wraps`` are looked through, unless the mode is ``off``.
    """

    __slots__ = (
        "_checks",
        "_converters",
        "_function",
        "_keywords",
        "_least",
        "_most",
        "_name",
        "_names",
        "_needed_keywords",
        "_needed_positional_only",
        "_needed_positionals",
        "_rest",
        "_rest_by_keyword",
        "_self",
        "_takes_any_keyword",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Sequence[inspect.Parameter],
        converters: Mapping[str, Converter],
        name: str,
        self_parameter: inspect.Parameter | None = None,
    ) -> None:
        self._function = function
        self._name = name
        self._self = self_parameter
        self._converters = converters
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        needed = [p for p in positional if p.default is p.empty]
        needed_by_keyword = [
            p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty
        ]
        variadic = {
            p.kind: p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        rest = variadic.get(inspect.Parameter.VAR_POSITIONAL)
        rest_by_keyword = variadic.get(inspect.Parameter.VAR_KEYWORD)
        self._names = tuple(p.name for p in positional)
        self._needed_positionals = tuple(p.name for p in needed)
        self._needed_positional_only = sum(p.kind is p.POSITIONAL_ONLY for p in needed)
        self._needed_keywords = tuple(needed_by_keyword)
        self._keywords = frozenset(p.name for p in parameters if p.kind in _BY_KEYWORD)
        self._takes_any_keyword = rest_by_keyword is not None
        self._rest = converters.get(rest) if rest else None
        self._rest_by_keyword = converters.get(rest_by_keyword) if rest_by_keyword else None
        #: How many positional arguments do without keywords.
        self._least = sys.maxsize if needed_by_keyword else len(needed)
        self._most = sys.maxsize if rest else len(positional)
        self._checks = tuple(
            (index, converters[name].exact)
            for index, name in enumerate(self._names)
            if name in converters
        )

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        skip_self: bool = True,
        mode: Mode = "strict",
        name: str | None = None,
    ) -> Arguments:
        """
        Look at *function*.

        Args:
            skip_self: it is a function of a class, and a call does not pass its first parameter.
            mode: ``strict`` converts what has one meaning only, ``lax`` also takes ``"5"`` for an
                int, ``off`` checks the signature and no more.
            name: for errors and warnings, ``service.method``.
        """
        name = name or function.__qualname__
        signature = _signature(function, follow_wrapped=mode != "off")
        parameters = list(signature.parameters.values())
        self_parameter = None
        # A bound method's signature has no `self`; that of (*args) takes it along with the rest.
        if skip_self and not inspect.ismethod(function) and parameters[:1]:
            self_parameter = parameters.pop(0) if parameters[0].kind in _POSITIONAL else None
        converters = {}
        if mode != "off":
            function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
            converters = dict(_converters(function, parameters, mode == "strict", name))
        return cls(function, parameters, converters, name, self_parameter)

    def bind(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        The arguments to call the method with. Defaults are left to the call itself.

        Raises:
            IncorrectSignature: the method does not take these; the text is Python's own.
            BadArguments: one of them is not what its annotation says; the text names it, what was
                expected and the type of what came, and never shows the value.
        """
        count = len(args)
        if kwargs:
            if not self._fits(count, kwargs):
                raise IncorrectSignature(self._misfit(args, kwargs))
            kwargs = self._convert_keywords(kwargs)
        elif not self._least <= count <= self._most:
            raise IncorrectSignature(self._misfit(args, kwargs))
        if self._rest is not None:
            return self._convert(args), kwargs
        for index, exact in self._checks:
            if index >= count:
                break
            if type(args[index]) not in exact:
                return self._convert(args), kwargs
        return tuple(args), kwargs

    def _fits(self, count: int, kwargs: dict[str, Any]) -> bool:
        """Whether the method takes *count* positional arguments and these keywords."""
        if not self._needed_positional_only <= count <= self._most:
            return False
        keywords = self._keywords
        if not kwargs.keys() <= keywords and not self._can_be_keywords(kwargs):
            return False
        for name in self._names[:count]:
            if name in kwargs and name in keywords:
                return False
        for name in self._needed_positionals[count:]:
            if name not in kwargs:
                return False
        for name in self._needed_keywords:  # noqa: SIM110 - a generator costs as much as the rest
            if name not in kwargs:
                return False
        return True

    def _can_be_keywords(self, names: Iterable[Any]) -> bool:
        """``**kwargs`` takes any name, but for what is no name, and ``self``, which is taken."""
        if not self._takes_any_keyword:
            return False
        taken = self._self.name if self._self and self._self.kind in _BY_KEYWORD else None
        return all(isinstance(name, str) and name != taken for name in names)

    def _misfit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Python's words for a call that does not fit, which Nameko sends too."""
        given = args if self._self is None else (None, *args)
        try:
            inspect.getcallargs(self._function, *given, **kwargs)
            _signature(self._function).bind(*given, **kwargs)
        except TypeError as exc:
            return str(exc)
        return f"{self._name} does not take these arguments"

    def _convert(self, args: Sequence[Any]) -> tuple[Any, ...]:
        names, rest = self._names, self._rest
        converted = list(args)
        for index, value in enumerate(args):
            name = names[index] if index < len(names) else None
            converter = rest if name is None else self._converters.get(name)
            if converter is not None and type(value) not in converter.exact:
                name = name or f"*{converter.name}[{index - len(names)}]"
                converted[index] = self._converted(converter, name, value)
        return tuple(converted)

    def _convert_keywords(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        keywords, converters, rest = self._keywords, self._converters, self._rest_by_keyword
        converted = kwargs
        for name, value in kwargs.items():
            converter = converters.get(name) if name in keywords else rest
            if converter is not None and type(value) not in converter.exact:
                if converted is kwargs:
                    converted = kwargs.copy()
                converted[name] = self._converted(converter, name, value)
        return converted

    def _converted(self, converter: Converter, name: str, value: Any) -> Any:
        try:
            return converter.convert(value)
        except Unfit as exc:
            raise BadArguments(f"{self._name}: argument {name!r} {exc}") from None


class Result:
    """What one method returns, for the typed proxy that calls it."""

    __slots__ = ("_converter", "_name")

    def __init__(self, converter: Converter | None, name: str) -> None:
        self._converter = converter
        self._name = name

    @classmethod
    def of(cls, function: Callable[..., Any], *, name: str | None = None) -> Result:
        """
        Look at the return annotation of *function*, or at what an Awaitable returns. One that is
        missing, cannot be resolved or is unsupported lets every value pass.
        """
        name = name or function.__qualname__
        function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
        annotation = _signature(function).return_annotation
        try:
            expected = _awaited(_resolved(function, annotation))
            converter = None if expected is type(None) else converter_of("", expected, strict=True)
        except Unsupported as exc:
            log.debug("%s: its result is passed on unchecked: %s", name, exc)
            converter = None
        return cls(converter, name)

    def convert(self, value: Any) -> Any:
        """
        *value* as the annotation has it.

        Raises:
            MalformedReply: it does not fit. The text names what was expected and what came.
        """
        converter = self._converter
        if converter is None or type(value) in converter.exact:
            return value
        try:
            return converter.convert(value)
        except Unfit as exc:
            raise MalformedReply(f"{self._name}: the result {exc}") from None


# Annotations


def _signature(function: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        # Names imported under TYPE_CHECKING must not fail the whole signature.
        return inspect.signature(
            function, follow_wrapped=follow_wrapped, annotation_format=Format.FORWARDREF
        )
    return inspect.signature(function, follow_wrapped=follow_wrapped)


def _converters(
    function: Callable[..., Any],
    parameters: Iterable[inspect.Parameter],
    strict: bool,
    method: str,
) -> Iterator[tuple[str, Converter]]:
    for parameter in parameters:
        try:
            expected = _resolved(function, parameter.annotation)
            if parameter.default is None:
                expected = Optional[expected]  # noqa: UP045 - `x: str = None` is old, and common
            converter = converter_of(parameter.name, expected, strict=strict)
        except Unsupported as exc:
            log.warning("%s: argument %r is passed on unchecked: %s", method, parameter.name, exc)
        else:
            if converter is not None:
                yield parameter.name, converter


def _resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """The type that an annotation means, on its own: its neighbours may be beyond resolving."""
    if annotation is inspect.Parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return get_type_hints(
            holder, globalns=getattr(function, "__globals__", {}), include_extras=True
        )["it"]
    except Exception as exc:
        raise Unsupported(
            f"its annotation {annotation!r} cannot be resolved at run time ({exc}); import what it "
            "names outside of TYPE_CHECKING"
        ) from exc


def _awaited(annotation: Any) -> Any:
    """``T`` of ``Awaitable[T]`` and of ``Coroutine[Any, Any, T]``; else the annotation itself."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (collections.abc.Awaitable, collections.abc.Coroutine) and arguments:
        return arguments[-1]
    return annotation

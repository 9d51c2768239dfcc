"""
Arguments and results as their annotations say. Pure functions; the only effect is a warning in the
log at start, for an annotation that cannot be checked.

JSON has few types: a dataclass arrives as an object, a tuple as an array, and a date from a kombu
before 5.3 as a string. :class:`Arguments` checks a request against a method's signature, as Nameko
does, and converts the values. :func:`result_converter` is for typed proxies.

msgspec converts (``msgspec.convert``), so all types that it supports are supported. So are pydantic
models, which have a ``model_validate`` method. Other values pass unchecked.
"""

from __future__ import annotations

import collections.abc
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, Literal, Optional, get_args, get_origin, get_type_hints

from ..exceptions import BadArguments, IncorrectSignature, MalformedReply
from .conversion import Converter, Unfit, Unsupported, converter_of

__all__ = ["Arguments", "result_converter"]

log = logging.getLogger("aiorpc.arguments")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """
    The arguments of *function*, whose signature is read through decorators that use
    ``functools.wraps``. Made when a service starts; :meth:`bind` runs for each request.

    Args:
        skip_self: it is a function of a class, and a call does not pass its first parameter.
        mode: ``strict`` converts values with one meaning only, ``lax`` also takes ``"5"`` for an
            int, ``off`` checks only the signature, and that of the outermost decorator.
        name: ``service.method``, for errors and warnings.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        skip_self: bool = True,
        mode: Literal["strict", "lax", "off"] = "strict",
        name: str | None = None,
    ) -> None:
        self._name = name = name or function.__qualname__
        signature = _signature(function, follow_wrapped=mode != "off")
        parameters = list(signature.parameters.values())
        self._check = _check_of(parameters, getattr(function, "__name__", name))
        # A bound method's signature has no `self`; in that of (*args), `self` is one of them.
        first = parameters[0].kind if parameters else None
        if skip_self and first in _POSITIONAL and not inspect.ismethod(function):
            self._check = MethodType(self._check, function)  # any object will do for `self`
            del parameters[0]
        converters: dict[str, Converter] = {}
        if mode != "off":
            function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
            converters.update(_converters(function, parameters, mode == "strict", name))
        self._set_converters(parameters, converters)

    def _set_converters(
        self, parameters: Iterable[inspect.Parameter], converters: Mapping[str, Converter]
    ) -> None:
        named: dict[Any, list[str]] = {}
        for parameter in parameters:
            named.setdefault(parameter.kind, []).append(parameter.name)
        positional = [each for kind in _POSITIONAL for each in named.get(kind, ())]
        self._positional = len(positional)
        #: Converters of positional parameters, with the index of each.
        self._by_index = tuple(
            (index, converters[each]) for index, each in enumerate(positional) if each in converters
        )
        self._by_keyword = {
            each: converters.get(each) for kind in _BY_KEYWORD for each in named.get(kind, ())
        }
        #: Those of ``*args`` and ``**kwargs``.
        self._rest, self._rest_by_keyword = (
            converters.get(named[kind][0]) if kind in named else None
            for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        )

    def require_positional(self, count: int) -> None:
        """
        Check that the method takes *count* positional arguments and needs no others.

        Raises:
            IncorrectSignature: it does not; the text is Python's own.
        """
        try:
            self._check(*(None,) * count)
        except TypeError as exc:
            raise IncorrectSignature(str(exc)) from None

    def bind(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Return the arguments to call the method with. Defaults are left to the call itself.

        Raises:
            IncorrectSignature: the method does not take these; the text is Python's own.
            BadArguments: an argument does not fit its annotation. The text names the argument, the
                expected type and the type that came, and never shows the value.
        """
        try:
            self._check(*args, **kwargs)
        except TypeError as exc:
            raise IncorrectSignature(str(exc)) from None
        count = len(args)
        converted = None
        for index, converter in self._by_index:
            if index >= count:
                break
            value = args[index]
            if type(value) not in converter.exact:
                converted = converted or list(args)
                converted[index] = self._convert(converter, converter.name, value)
        if self._rest is not None and count > self._positional:
            converted = converted or list(args)
            for index in range(self._positional, count):
                name = f"*{self._rest.name}[{index - self._positional}]"
                converted[index] = self._convert(self._rest, name, args[index])
        return tuple(converted or args), self._bind_keywords(kwargs) if kwargs else kwargs

    def _bind_keywords(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = {}
        for name, value in kwargs.items():
            converter = self._by_keyword.get(name, self._rest_by_keyword)
            bound[name] = value if converter is None else self._convert(converter, name, value)
        return bound

    def _convert(self, converter: Converter, name: str, value: Any) -> Any:
        try:
            return value if type(value) in converter.exact else converter.convert(value)
        except Unfit as exc:
            raise BadArguments(f"{self._name}: argument {name!r} {exc}") from None


def _check_of(parameters: Iterable[inspect.Parameter], name: str) -> Callable[..., None]:
    """
    Return a function called *name* that takes *parameters* and does nothing.

    Python itself then checks the arguments of each request, in the words that Nameko sends too.
    ``Signature.bind`` takes thirty times as long.
    """
    bare = inspect.Signature(
        [
            p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
            for p in parameters
        ]
    )
    namespace: dict[str, Any] = {}
    exec(f"def check{bare}: pass", namespace)  # the names in it are identifiers
    check: Callable[..., None] = namespace["check"]
    check.__qualname__ = name
    return check


def result_converter(
    function: Callable[..., Any], *, name: str | None = None
) -> Callable[[Any], Any] | None:
    """
    Return what converts results as the return annotation of *function* says. ``None`` if every
    value passes, for example because msgspec does not support the annotation.

    The converter raises MalformedReply for a result that does not fit. The text names the expected
    type and the one that came.
    """
    name = name or function.__qualname__
    function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
    annotation = _signature(function).return_annotation
    try:
        expected = _awaited(_resolved(function, annotation))
        converter = None if expected is type(None) else converter_of("", expected, strict=True)
    except Unsupported as exc:
        log.debug("%s: its result passes unchecked: %s", name, exc)
        return None
    if converter is None:
        return None

    def convert(value: Any) -> Any:
        try:
            return value if type(value) in converter.exact else converter.convert(value)
        except Unfit as exc:
            raise MalformedReply(f"{name}: the result {exc}") from None

    return convert


if sys.version_info >= (3, 14):
    from annotationlib import Format

    # A name imported under TYPE_CHECKING must not fail the whole signature.
    _signature = partial(inspect.signature, annotation_format=Format.FORWARDREF)
else:
    _signature = inspect.signature


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
            log.warning("%s: argument %r passes unchecked: %s", method, parameter.name, exc)
        else:
            if converter is not None:
                yield parameter.name, converter


def _resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """Return the type that *annotation* names, even if other annotations cannot be resolved."""
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
    """Return ``T`` for ``Awaitable[T]`` and ``Coroutine[Any, Any, T]``, else the annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (collections.abc.Awaitable, collections.abc.Coroutine) and arguments:
        return arguments[-1]
    return annotation

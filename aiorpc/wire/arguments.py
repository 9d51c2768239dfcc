"""
Checks arguments and results against their annotations, and converts them. Pure functions; the only
effect is a warning in the log at start, for an annotation that msgspec does not support.

JSON has few types: a dataclass arrives as an object, a tuple as an array, and a date from kombu
before 5.3 as a string. :class:`Arguments` checks a request against a method's signature, as Nameko
does, and converts the values. :func:`result_converter` converts the results of typed proxies.

``msgspec.convert`` does the conversion, so aiorpc supports all types that msgspec supports. It also
supports pydantic models (``model_validate``). Values of other types pass unchecked.
"""

from __future__ import annotations

import collections.abc
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, Literal, Optional, get_args, get_origin, get_type_hints

from ..exceptions import BadArguments, IncorrectSignature, MalformedReply
from ..logs import logger
from .conversion import Converter, Unfit, Unsupported, converter_of

__all__ = ["Arguments", "result_converter"]

log = logger("aiorpc.arguments")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """
    Checks and converts the arguments of *function*. A service makes this object when it starts, and
    runs :meth:`bind` for each request.

    Args:
        skip_self: whether *function* belongs to a class, so a call does not pass ``self``.
        mode: ``strict`` converts only values with one meaning; ``lax`` also accepts ``"5"`` for an
            int; ``off`` checks only the signature, and does not follow ``functools.wraps``.
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
        # A bound method has no `self` in its signature, and (*args) takes `self` as an item.
        first = parameters[0].kind if parameters else None
        if skip_self and first in _POSITIONAL and not inspect.ismethod(function):
            self._check = MethodType(self._check, function)  # any object can stand in for `self`
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
        required_keywords = False
        for parameter in parameters:
            named.setdefault(parameter.kind, []).append(parameter.name)
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                required_keywords = True
        positional = [each for kind in _POSITIONAL for each in named.get(kind, ())]
        self._positional = len(positional)
        #: With this number of positional arguments and no others, the check always passes (ADR 6).
        self._fitting = -1 if required_keywords else len(positional)
        #: (index, converter) of each positional parameter that has a converter.
        self._by_index = tuple(
            (index, converters[each]) for index, each in enumerate(positional) if each in converters
        )
        self._by_keyword = {
            each: converters.get(each) for kind in _BY_KEYWORD for each in named.get(kind, ())
        }
        #: Converters of ``*args`` and ``**kwargs``.
        self._rest, self._rest_by_keyword = (
            converters.get(named[kind][0]) if kind in named else None
            for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        )

    def require_positional(self, count: int) -> None:
        """
        Check that the method takes *count* positional arguments and needs no others.

        Raises:
            IncorrectSignature: the method takes another number; the text is Python's own.
        """
        try:
            self._check(*(None,) * count)
        except TypeError as exc:
            raise IncorrectSignature(str(exc)) from None

    def bind(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Return the converted arguments for the method. The result does not contain defaults.

        Raises:
            IncorrectSignature: the method does not accept these arguments; the text is Python's.
            BadArguments: an argument does not fit its annotation. The text names the argument, the
                expected type and the received type. It never shows the value.
        """
        count = len(args)
        if kwargs or count != self._fitting:
            try:
                self._check(*args, **kwargs)
            except TypeError as exc:
                raise IncorrectSignature(str(exc)) from None
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

    Python then checks the arguments of each request, and its error text is the same as Nameko's.
    ``Signature.bind`` takes thirty times as long.
    """
    bare = inspect.Signature(
        [
            p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
            for p in parameters
        ]
    )
    namespace: dict[str, Any] = {}
    exec(f"def check{bare}: pass", namespace)  # safe: all names in `bare` are identifiers
    check: Callable[..., None] = namespace["check"]
    check.__qualname__ = name
    return check


def result_converter(
    function: Callable[..., Any], *, name: str | None = None
) -> Callable[[Any], Any] | None:
    """
    Return a function that converts results to the return annotation of *function*. Return ``None``
    if every value passes, for example because msgspec does not support the annotation.

    The converter raises MalformedReply for a result that does not fit the annotation. The text
    names the expected type and the received type.
    """
    name = name or function.__qualname__
    function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
    annotation = _signature(function).return_annotation
    try:
        expected = _awaited(_resolved(function, annotation))
        converter = None if expected is type(None) else converter_of("", expected, strict=True)
    except Unsupported as exc:
        log.debug("%s: the result passes unchecked: %s", name, exc)
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

    # Python must read the signature even if a module imports a name only under TYPE_CHECKING.
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
                expected = Optional[expected]  # noqa: UP045 - `x: str = None` is old but common
            converter = converter_of(parameter.name, expected, strict=strict)
        except Unsupported as exc:
            log.warning("%s: argument %r passes unchecked: %s", method, parameter.name, exc)
        else:
            if converter is not None:
                yield parameter.name, converter


def _resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """Return the type that *annotation* names. Unresolvable other annotations do not matter."""
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
            f"its annotation {annotation!r} cannot be resolved at run time ({exc}); import its "
            "names outside of TYPE_CHECKING"
        ) from exc


def _awaited(annotation: Any) -> Any:
    """Return ``T`` for ``Awaitable[T]`` and ``Coroutine[Any, Any, T]``, else the annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (collections.abc.Awaitable, collections.abc.Coroutine) and arguments:
        return arguments[-1]
    return annotation

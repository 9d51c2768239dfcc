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

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, Literal

from ..exceptions import BadArguments, IncorrectSignature, MalformedReply
from ..logs import logger
from .conversion import Converter, Unfit, Unsupported, converter_of
from .signatures import expected_type, result_type, signature_of, takes_self, unwrapped

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
        base64: whether bytes are text in base64, as in JSON without kombu's envelopes.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        skip_self: bool = True,
        mode: Literal["strict", "lax", "off"] = "strict",
        name: str | None = None,
        base64: bool = False,
    ) -> None:
        self._name = name = name or function.__qualname__
        signature = signature_of(function, follow_wrapped=mode != "off")
        parameters = list(signature.parameters.values())
        self._check = _check_of(parameters, getattr(function, "__name__", name))
        if skip_self and takes_self(function, parameters):
            self._check = MethodType(self._check, function)  # any object can stand in for `self`
            del parameters[0]
        converters: dict[str, Converter] = {}
        if mode != "off":
            convert = partial(converter_of, strict=mode == "strict", base64=base64)
            converters.update(_converters(unwrapped(function), parameters, convert, name))
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
    try:
        expected = result_type(unwrapped(function))
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


def _converters(
    function: Callable[..., Any],
    parameters: Iterable[inspect.Parameter],
    convert: Callable[[str, Any], Converter | None],
    method: str,
) -> Iterator[tuple[str, Converter]]:
    for parameter in parameters:
        try:
            expected = expected_type(function, parameter)
            converter = convert(parameter.name, expected)
        except Unsupported as exc:
            log.warning("%s: argument %r passes unchecked: %s", method, parameter.name, exc)
        else:
            if converter is not None:
                yield parameter.name, converter

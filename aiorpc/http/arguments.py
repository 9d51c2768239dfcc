"""
Finds the arguments of a method in a request: in the path, the query and the JSON body. Checks and
converts them by their annotations. Pure functions; the only effect is a warning in the log at
start, for an annotation that msgspec does not support.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import starlette.requests
from msgspec import inspect as shapes

from ..exceptions import BadArguments, ConfigurationError
from ..logs import logger
from ..wire.conversion import Converter, Unfit, Unsupported, converter_of
from ..wire.signatures import expected_type, signature_of, takes_self, unwrapped
from .requests import HttpRequest, json_body
from .routes import Rule

__all__ = ["Binder"]

log = logger("aiorpc.http")

Mode = Literal["strict", "lax", "off"]

_ABSENT = object()
_OBJECTS = (
    *(shapes.StructType, shapes.DataclassType, shapes.TypedDictType, shapes.NamedTupleType),
    *(shapes.DictType, shapes.CustomType),
)
_MANY = (shapes.ListType, shapes.SetType, shapes.FrozenSetType, shapes.VarTupleType)


class _Source(msgspec.Struct, frozen=True):
    """
    Where the value of one parameter comes from.

    Attributes:
        from_text: converts the text of a path or a query; None: the text passes.
        from_json: converts a value of the body; None: the value passes.
        is_object: whether the value is a JSON object, or a list of objects.
        many: whether the query may repeat the name.
    """

    name: str
    required: bool
    from_text: Converter | None
    from_json: Converter | None
    is_object: bool = False
    many: bool = False


class Binder:
    """
    Finds the arguments of *function* in requests for the paths of *rule*.

    - A variable of the path is the argument of the same name.
    - The first parameter is the request, unless it is a variable of the path or is annotated with
      another type.
    - A parameter whose type is an object (a dataclass, a Struct, a pydantic model, a mapping) or a
      list of objects is the JSON body. Of several such parameters, each is a member of the body.
    - Every other parameter is in the query, or is a member of the body.

    Args:
        skip_self: whether *function* belongs to a class, so a call does not pass ``self``.
        methods: of HTTP. Requests with GET and HEAD have no body.
        mode: ``strict`` converts values of the body only if they have one meaning; ``lax`` also
            accepts ``"5"`` for an int; ``off`` converts nothing.
        name: ``service.method``, for errors and warnings.

    Raises:
        ConfigurationError: the method cannot take the arguments of these requests.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        rule: Rule,
        methods: Sequence[str],
        *,
        skip_self: bool,
        mode: Mode,
        name: str,
    ) -> None:
        self._name = name
        self._has_body = bool({*methods} - {"GET", "HEAD"})
        signature = signature_of(function).parameters
        parameters = list(signature.values())
        if skip_self and takes_self(function, parameters):
            del parameters[0]
        function = unwrapped(function)
        self.takes_request = _takes_request(function, parameters, rule, name)
        if self.takes_request and parameters[0].kind is not parameters[0].VAR_POSITIONAL:
            del parameters[0]
        self._takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters)
        #: Names that no member of a body may set by way of ``**kwargs``.
        self._reserved = frozenset(signature)
        sources = {each.name: each for each in self._sources(function, parameters, mode)}
        unknown = [each for each in rule.names if each not in sources]
        if unknown and not self._takes_more:
            raise ConfigurationError(
                f"{name} takes no argument {unknown[0]!r}, which the path {rule.text} has: add the "
                "parameter, or change the path"
            )
        in_path = [sources[each] for each in rule.names if each in sources]
        self._in_path = [each for each in in_path if each.from_text is not None]
        self._others = [each for each in sources.values() if each.name not in rule.names]
        objects = [each for each in self._others if each.is_object]
        self._whole = objects[0] if len(objects) == 1 else None
        if objects and not self._has_body:
            raise ConfigurationError(
                f"{name}: the argument {objects[0].name!r} is a JSON body, and a request with "
                f"{'/'.join(methods)} has none: use POST, or one parameter for each field"
            )

    def _sources(
        self, function: Callable[..., Any], parameters: Sequence[inspect.Parameter], mode: Mode
    ) -> Iterator[_Source]:
        for each in parameters:
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                continue
            if each.kind is each.POSITIONAL_ONLY:
                raise ConfigurationError(
                    f"{self._name}: the parameter {each.name!r} has no name for requests: remove "
                    'the "/" behind it'
                )
            yield self._source(function, each, mode)

    def _source(
        self, function: Callable[..., Any], parameter: inspect.Parameter, mode: Mode
    ) -> _Source:
        name, required = parameter.name, parameter.default is parameter.empty
        try:
            expected = expected_type(function, parameter)
            from_text = converter_of(name, expected, strict=False, base64=True)
            from_json = converter_of(name, expected, strict=mode == "strict", base64=True)
        except Unsupported as exc:
            log.warning("%s: argument %r passes unchecked: %s", self._name, name, exc)
            return _Source(name, required, None, None)
        if from_text is None:
            return _Source(name, required, None, None)
        is_object, many = _form_of(shapes.type_info(expected))
        if mode == "off":
            from_text = from_json = None
        return _Source(name, required, from_text, from_json, is_object, many)

    @property
    def beside_path(self) -> frozenset[str]:
        """The parameters that come from the query or the body."""
        return frozenset(each.name for each in self._others)

    @property
    def whole_body(self) -> str | None:
        """The parameter that is the whole JSON body, if any."""
        return None if self._whole is None else self._whole.name

    def bind(
        self, request: HttpRequest, values: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Return the arguments for the method.

        Args:
            values: of the path's variables.

        Raises:
            BadRequest: an argument is missing or has the wrong type, or the body is no JSON. The
                text names the argument and never shows its value.
            HTTPException: 415, because the body has another type.
        """
        arguments = dict(values)
        for each in self._in_path:
            arguments[each.name] = self._converted(each.from_text, each.name, arguments[each.name])
        if self._others:
            self._bind_others(request, arguments)
        return (request,) if self.takes_request else (), arguments

    def _bind_others(self, request: HttpRequest, arguments: dict[str, Any]) -> None:
        query = request.query_params if request.scope["query_string"] else None
        body = json_body(request) if self._has_body and request.content else _ABSENT
        members: dict[str, Any] = {}
        if self._whole is None and body is not _ABSENT:
            if not isinstance(body, dict):
                raise BadArguments(
                    f"{self._name}: the body must be a JSON object with the arguments, got "
                    f"{type(body).__name__}"
                )
            members = body
        for each in self._others:
            if each is self._whole:
                value, converter = body, each.from_json
            elif query is not None and each.name in query:
                value = query.getlist(each.name) if each.many else query[each.name]
                converter = each.from_text
            else:
                value, converter = members.pop(each.name, _ABSENT), each.from_json
            if value is not _ABSENT:
                arguments[each.name] = self._converted(converter, each.name, value)
            elif each.required:
                raise BadArguments(f"{self._name}: {self._missing(each)}")
        if members and (not self._takes_more or self._reserved.intersection(members)):
            raise BadArguments(f"{self._name}: {self._left(members, request)}")
        for name, value in members.items():
            arguments.setdefault(name, value)

    def _left(self, members: Mapping[str, Any], request: HttpRequest) -> str:
        """Return why *members* are no arguments."""
        names = [each.name for each in self._others if each.name in request.query_params]
        if twice := [each for each in names if each in members]:
            return f"the argument {twice[0]!r} is in the query and in the JSON body: send it once"
        unknown = ", ".join(repr(each[:60]) for each in list(members)[:5])
        return f"the body has unknown members: {unknown}"

    def _missing(self, source: _Source) -> str:
        if source is self._whole:
            return f"the JSON body is missing, which is the argument {source.name!r}"
        if not self._has_body:
            return f"the query lacks the argument {source.name!r}"
        if source.is_object:
            return f"the JSON body lacks the member {source.name!r}"
        return f"the argument {source.name!r} is neither in the query nor in the JSON body"

    def _converted(self, converter: Converter | None, name: str, value: Any) -> Any:
        if converter is None or type(value) in converter.exact:
            return value
        try:
            return converter.convert(value)
        except Unfit as exc:
            raise BadArguments(f"{self._name}: argument {name!r} {exc}") from None


def _takes_request(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter], rule: Rule, name: str
) -> bool:
    if not parameters:
        return False
    first = parameters[0]
    if first.kind is first.VAR_POSITIONAL:
        return True
    if first.name in rule.names or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        return False
    if first.annotation is first.empty:
        return True
    try:
        expected = expected_type(function, first)
    except Unsupported:  # a name that only type checkers import
        return "Request" in str(first.annotation)
    if expected is Any:
        return first.name == "request"
    if isinstance(expected, type) and expected.__module__.startswith("werkzeug."):
        raise ConfigurationError(
            f"{name}: the request is Starlette's, not werkzeug's: write `{first.name}: Request`, "
            "with `from starlette.requests import Request`"
        )
    return isinstance(expected, type) and issubclass(expected, starlette.requests.HTTPConnection)


def _form_of(shape: shapes.Type) -> tuple[bool, bool]:
    """Return whether values of *shape* are objects or lists of objects, and whether lists."""
    match shape:
        case shapes.Metadata():
            return _form_of(shape.type)
        case shapes.UnionType():
            forms = [_form_of(each) for each in shape.types]
            return any(form[0] for form in forms), any(form[1] for form in forms)
        case _ if isinstance(shape, _MANY):
            return _form_of(shape.item_type)[0], True
    return isinstance(shape, _OBJECTS), False

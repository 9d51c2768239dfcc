"""
Which method answers a path: rules in Nameko's spelling (werkzeug's) or Starlette's, and the table
of routes. Imports Starlette's converters; nothing here awaits or does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.convertors import CONVERTOR_TYPES, Convertor

from ..context import EMPTY
from ..exceptions import ConfigurationError, likely

__all__ = ["Exposed", "Found", "Rule", "Table", "methods_of"]

T = TypeVar("T")

#: werkzeug's names of converters that Starlette calls otherwise.
_SAME = {"string": "str", "default": "str"}
#: ``<int:id>``, ``<id>``; and ``{id:int}``, ``{id}``. A name may be missing: the error says so.
_NAMEKO = re.compile(r"<(?:(?P<kind>[^<>:]*):)?(?P<name>[^<>:]*)>")
_STARLETTE = re.compile(r"{(?P<name>[^{}:]*)(?::(?P<kind>[^{}:]*))?}")
_TOKEN = re.compile(r"[A-Z][A-Z0-9_-]*")
#: The order of rules that match one path: a literal text first, ``path`` last.
_RANKS = {"int": 1, "float": 1, "uuid": 1, "str": 3, "path": 4}
_OTHER_RANK = 2


def methods_of(text: Any) -> tuple[str, ...]:
    """
    Return the HTTP methods in *text*, such as ``"GET,POST"``.

    Raises:
        ConfigurationError: *text* names no method, or is no text.
    """
    names = [each.strip().upper() for each in text.split(",")] if isinstance(text, str) else []
    if not names or not all(map(_TOKEN.fullmatch, names)):
        raise ConfigurationError(
            f"the methods of @http are a string with commas between them, got {text!r}: write "
            '@http("GET", "/books"), or @http("GET,POST", "/books")'
        )
    return tuple(dict.fromkeys(names))


class Exposed(NamedTuple):
    """
    What a route offers, for contracts.

    Attributes:
        path: with variables in braces.
        in_path: the names of these variables.
        body: the parameter that is the whole JSON body, if any.
        parameters: those of the method that come from the request.
    """

    methods: tuple[str, ...]
    path: str
    in_path: tuple[str, ...]
    body: str | None
    parameters: frozenset[str]


class Rule:
    """
    A rule for paths, such as ``/books/<int:id>`` or ``/books/{id:int}``.

    Attributes:
        text: the rule as the user wrote it.
        names: the variables, in order.
        shape: the rule without the names of the variables. Two rules with one shape match the same
            paths.
        rank: the rule with the lowest rank answers a path that several rules match.

    Raises:
        ConfigurationError: *text* is no rule; the text says why.
    """

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or not text.startswith("/"):
            raise self._error(text, 'a path begins with "/"')
        self.text = text
        self.names: tuple[str, ...] = ()
        #: The convertor and the number of the group of each variable.
        self._variables: list[tuple[Convertor[Any], int]] = []
        pattern = _NAMEKO if "<" in text else _STARLETTE
        regex = shape = ""
        ranks: list[int] = []
        at, group = 0, 1
        for found in pattern.finditer(text):
            literal, at = text[at : found.start()], found.end()
            kind = self._kind(found["kind"])
            self._name(found["name"])
            convertor = CONVERTOR_TYPES[kind]
            self._variables.append((convertor, group))
            group += 1 + re.compile(convertor.regex).groups  # that of float has a group
            regex += f"{self._literal(literal)}({convertor.regex})"
            shape += f"{literal}{{{kind}}}"
            ranks += [0] * literal.count("/") + [_RANKS.get(kind, _OTHER_RANK)]
        rest = text[at:]
        self._regex = re.compile(regex + self._literal(rest))
        self.shape = shape + rest
        self.rank = ((*ranks, *[0] * rest.count("/")), -len(self._regex.pattern))

    @property
    def template(self) -> str:
        """The rule as OpenAPI and AsyncAPI write it: ``/books/{id}``."""
        pattern = _NAMEKO if "<" in self.text else _STARLETTE
        return pattern.sub(lambda found: "{" + found["name"] + "}", self.text)

    def match(self, path: str) -> dict[str, Any] | None:
        """Return the values of the variables in *path*; ``None`` if the rule does not match."""
        found = self._regex.fullmatch(path)
        if found is None:
            return None
        try:
            values = [convertor.convert(found[group]) for convertor, group in self._variables]
        except ValueError:  # an integer of thousands of digits
            return None
        return dict(zip(self.names, values, strict=True))

    def _literal(self, text: str) -> str:
        if set(text) & set("<>{}"):
            raise self._error(self.text, "a bracket stands alone, or two spellings are mixed")
        if set(text) & set("?# "):
            raise self._error(self.text, "a path has no query, no fragment and no space")
        return re.escape(text)

    def _kind(self, given: str | None) -> str:
        kind = _SAME.get(given or "str", given or "str")
        if "(" in kind:
            raise self._error(
                self.text,
                f"converters take no arguments, as {kind} does: annotate the method's parameter "
                "with the type, such as Literal or Annotated[int, Meta(ge=1)]",
            )
        if kind not in CONVERTOR_TYPES:
            known = sorted({*CONVERTOR_TYPES, *_SAME})
            raise self._error(
                self.text,
                f"there is no converter {kind!r}{likely(kind, known)}; known are "
                f"{', '.join(known)}; starlette.convertors.register_url_convertor adds one",
            )
        return kind

    def _name(self, name: str) -> None:
        if not name.isidentifier():
            raise self._error(self.text, f"{name!r} is no name of a parameter")
        if name in self.names:
            raise self._error(self.text, f"two variables are named {name!r}")
        self.names += (name,)

    @staticmethod
    def _error(text: Any, why: str) -> ConfigurationError:
        return ConfigurationError(f"{text!r} is no path for @http: {why}")


class Found(NamedTuple, Generic[T]):
    """The route for a request, and the values of the path's variables."""

    route: T
    values: Mapping[str, Any]


class Table(Generic[T]):
    """Finds the route for a method and a path. A literal path takes one look in a dict."""

    def __init__(self) -> None:
        self._literal: dict[str, dict[str, T]] = {}
        #: Rules with variables, the first to be tried first: rule by shape, routes by method.
        self._rules: dict[str, list[tuple[Rule, dict[str, T]]]] = {}
        self._in_turn: list[tuple[Rule, dict[str, T]]] = []

    def taken(self, rule: Rule, method: str) -> T | None:
        """Return the route that answers *method* for the paths of *rule* already, if any."""
        if not rule.names:
            return self._literal.get(rule.text, {}).get(method)
        for _, routes in self._rules.get(rule.shape, ()):
            if method in routes:
                return routes[method]
        return None

    def add(self, rule: Rule, methods: tuple[str, ...], route: T) -> None:
        """Add *route*. The caller has checked that it is not ``taken``."""
        if rule.names:
            self._rules.setdefault(rule.shape, []).append((rule, dict.fromkeys(methods, route)))
            self._sort()
        else:
            self._literal.setdefault(rule.text, {}).update(dict.fromkeys(methods, route))

    def remove(self, route: T) -> None:
        """Remove *route* from all its methods."""
        for routes in self._literal.values():
            for method in [method for method, each in routes.items() if each is route]:
                del routes[method]
        self._literal = {path: routes for path, routes in self._literal.items() if routes}
        for shape, rules in self._rules.items():
            self._rules[shape] = [each for each in rules if route not in each[1].values()]
        self._sort()

    def _sort(self) -> None:
        every = [each for rules in self._rules.values() for each in rules]
        self._in_turn = sorted(every, key=lambda each: each[0].rank)

    def find(self, method: str, path: str) -> Found[T] | set[str]:
        """
        Return the route, or the methods that have a route for *path*: none if it is unknown. A
        route for GET answers HEAD too, as in werkzeug.
        """
        allowed: set[str] = set()
        literal = self._literal.get(path)
        if literal is not None:
            if (route := _answering(method, literal)) is not None:
                return Found(route, EMPTY)
            allowed.update(literal)
        for rule, routes in self._in_turn:
            values = rule.match(path)
            if values is not None:
                if (route := _answering(method, routes)) is not None:
                    return Found(route, values)
                allowed.update(routes)
        return allowed | {"HEAD"} if "GET" in allowed else allowed


def _answering(method: str, routes: Mapping[str, T]) -> T | None:
    route = routes.get(method)
    return routes.get("GET") if route is None and method == "HEAD" else route

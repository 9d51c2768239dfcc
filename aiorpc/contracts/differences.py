"""
Compares two contracts, and returns what the new one breaks. Pure functions.

Direction matters: callers send arguments and read results, so an argument may become wider and a
result narrower, and not the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from .model import (
    Argument,
    ConsumedQueue,
    Contract,
    Error,
    HandledEvent,
    OfferedMethod,
    OfferedRoute,
    Schema,
    Service,
)
from .rules import Break, Hurt, Rule
from .variance import Change, Comparison, shown

__all__ = ["breaks_of"]

_GONE = "gone"
_TEXT: Schema = {"type": "string"}
_RULES: Mapping[str, Rule] = {
    "type": "FIELD_SAME_TYPE",
    "deleted": "FIELD_NO_DELETE",
    "required": "FIELD_NO_NEW_REQUIRED",
    "optional": "FIELD_SAME_PRESENCE",
}
_Schemas: TypeAlias = Mapping[str, Schema]


def breaks_of(old: Contract, new: Contract) -> list[Break]:
    """Return what *new* breaks of *old*, sorted by place and rule."""
    found: list[Break] = []
    for name, service in old.services.items():
        if name not in new.services:
            found.append(Break("SERVICE_NO_DELETE", name, "a service", _GONE, "callers", name))
        else:
            pair = _Pair(name, old.schemas, new.schemas)
            found += pair.services(service, new.services[name])
    return sorted(set(found), key=lambda each: (each.where, each.rule, each.was, each.now))


class _Pair:
    """The old and the new form of the service *name*."""

    def __init__(self, name: str, old: _Schemas, new: _Schemas) -> None:
        self._name = name
        self._old, self._new = old, new

    def services(self, old: Service, new: Service) -> Iterator[Break]:
        name = self._name
        methods = {each.name: each for each in new.methods}
        for method in old.methods:
            where = f"{name}.{method.name}"
            if method.name not in methods:
                yield Break("METHOD_NO_DELETE", where, "a method", _GONE, "callers", where)
            else:
                yield from self._methods(where, method, methods[method.name])
        events = {each.event_type: each for each in new.events}
        for event in old.events:
            where = f"{name} dispatches {event.event_type}"
            if event.event_type not in events:
                yield Break("EVENT_NO_DELETE", where, "an event", _GONE, "handlers", name)
            else:
                payload = events[event.event_type].payload
                changes = self._given(event.payload, payload, unknown_fits=True)
                yield from self._told("EVENT_SAME_PAYLOAD", where, changes, "handlers", name)
        yield from self._queues(old.queues, new.queues)
        yield from self._routes(old.routes, new.routes)

    def _methods(self, where: str, old: OfferedMethod, new: OfferedMethod) -> Iterator[Break]:
        if old.stream != new.stream:
            was, now = ("a stream" if each.stream else "one result" for each in (old, new))
            yield Break("METHOD_SAME_STREAM", where, was, now, "callers", where)
        else:
            changes = self._given(old.result, new.result)
            yield from self._told("METHOD_SAME_RESULT", f"{where} ->", changes, "callers", where)
        if old.idempotent and not new.idempotent:
            rule: Rule = "METHOD_SAME_IDEMPOTENCY"
            yield Break(rule, where, "idempotent", "not idempotent", "callers", where)
        if new.checked and not old.checked:
            rule = "METHOD_SAME_ARGUMENTS"
            yield Break(rule, where, "unchecked", "checked", "callers", where)
        yield from self._errors(where, old.errors, new.errors)
        yield from self._arguments(where, old.parameters, new.parameters)

    def _errors(self, where: str, old: Iterable[Error], new: Iterable[Error]) -> Iterator[Break]:
        kept = {each.name for each in new}
        for each in old:
            if each.name not in kept:
                place = f"{where} raises {each.name}"
                yield Break("ERROR_NO_DELETE", place, "an error", _GONE, "callers", where)

    def _arguments(
        self, where: str, old: tuple[Argument, ...], new: tuple[Argument, ...]
    ) -> Iterator[Break]:
        by_name = {each.name: each for each in new if not each.variadic}
        taken: dict[int, Argument] = dict(enumerate(each for each in new if each.by_position))
        rest = {each.kind: each for each in new if each.variadic}
        matched: set[str] = set()
        position = -1
        for each in old:
            place = f"{where}({each.name})"
            position += each.by_position
            there = by_name.get(each.name)
            if each.variadic:
                there = rest.get(each.kind)
            elif each.kind == "positional_only":
                there = taken.get(position) or rest.get("var_positional")
            elif there is None and each.kind == "keyword_only":
                there = rest.get("var_keyword")
            if there is None:
                yield self._moved(place, _way_of(each), _GONE, where)
                continue
            matched.add(there.name)
            if each.by_position and each.by_name and taken.get(position) is not there:
                yield self._moved(
                    place, f"at position {position + 1}", _now_of(there, taken), where
                )
            elif each.by_name and not (there.by_name or there.kind == "var_keyword"):
                yield self._moved(place, "an argument with a name", "only positional", where)
            if there.required and not each.required and not each.variadic:
                rule: Rule = "ARGUMENT_NO_NEW_REQUIRED"
                yield Break(rule, place, "optional", "required", "callers", where)
            changes = self._taken(each.schema, there.schema)
            yield from self._told("ARGUMENT_SAME_TYPE", place, changes, "callers", where)
        for name in by_name.keys() - matched:
            if by_name[name].required:
                now = f"a required {shown(by_name[name].schema)}"
                place = f"{where}({name})"
                yield Break("ARGUMENT_NO_NEW_REQUIRED", place, "absent", now, "callers", where)

    def _moved(self, place: str, was: str, now: str, method: str) -> Break:
        return Break("METHOD_SAME_ARGUMENTS", place, was, now, "callers", method)

    def _queues(
        self,
        old: Iterable[HandledEvent | ConsumedQueue],
        new: Iterable[HandledEvent | ConsumedQueue],
    ) -> Iterator[Break]:
        queues = {each.queue: each for each in new}
        for each in old:
            method = f"{self._name}.{each.method}"
            where = f"{method} {_task_of(each)}"
            if each.queue in queues:
                changes = self._taken(each.payload, queues[each.queue].payload, drops=True)
                yield from self._told("HANDLER_SAME_PAYLOAD", where, changes, "the service", method)
            elif isinstance(each, ConsumedQueue):
                yield Break("CONSUMER_NO_DELETE", where, "a consumer", _GONE, "the service", method)
            elif each.handler_type != "broadcast":  # the queue of an instance ends with it
                was = f"a handler on {each.queue}"
                yield Break("HANDLER_NO_DELETE", where, was, _GONE, "the service", method)

    def _routes(self, old: Iterable[OfferedRoute], new: Iterable[OfferedRoute]) -> Iterator[Break]:
        offered = {(verb, _shape(each)): each for each in new for verb in each.verbs}
        for each in old:
            method = f"{self._name}.{each.method}"
            for verb in each.verbs:
                where = f"{self._name} {verb} {each.path}"
                there = offered.get((verb, _shape(each)))
                if there is None:
                    yield Break("ROUTE_NO_DELETE", where, "a route", _GONE, "callers", method)
                    continue
                changes = self._given(each.result, there.result)
                place = f"{where} ->"
                yield from self._told("METHOD_SAME_RESULT", place, changes, "callers", method)
                if each.stream == there.stream:
                    sent = tuple(_by_name(each.parameters, each.in_path))
                    taken = tuple(_by_name(there.parameters, there.in_path, takes_text=True))
                    for found in self._arguments(where, sent, taken):
                        yield msgspec.structs.replace(found, method=method)
                else:
                    was, now = ("a stream" if one.stream else "one result" for one in (each, there))
                    yield Break("METHOD_SAME_STREAM", where, was, now, "callers", method)

    # Schemas

    def _given(self, old: Schema, new: Schema, *, unknown_fits: bool = False) -> list[Change]:
        """Return the changes of what the service sends, with the old type as ``sent``."""
        comparison = Comparison(self._new, self._old, is_result=True, unknown_fits=unknown_fits)
        return [
            Change(each.path, each.kind, sent=each.taken, taken=each.sent)
            for each in comparison.changes(new, old)
        ]

    def _taken(self, old: Schema, new: Schema, *, drops: bool = False) -> list[Change]:
        """Return the changes of what the service takes."""
        return Comparison(self._old, self._new, is_result=False, drops=drops).changes(old, new)

    def _told(
        self, rule: Rule, where: str, changes: Iterable[Change], hurts: Hurt, method: str
    ) -> Iterator[Break]:
        """Yield a break for each change; *rule* is that of the whole type."""
        given = rule in ("METHOD_SAME_RESULT", "EVENT_SAME_PAYLOAD")
        for each in changes:
            found = rule if not each.path else _RULES.get(each.kind, rule)
            if each.kind == "enum":
                found = "ENUM_VALUE_NO_NEW" if given else "ENUM_VALUE_NO_DELETE"
            yield Break(found, f"{where}{each.path}", each.sent, each.taken, hurts, method)


def _task_of(each: HandledEvent | ConsumedQueue) -> str:
    if isinstance(each, ConsumedQueue):
        return f"consumes {each.queue}"
    return f"handles {each.source_service}.{each.event_type}"


def _way_of(argument: Argument) -> str:
    if argument.variadic:
        return "any number of arguments"
    return f"an argument, {argument.kind.replace('_', ' ')}"


def _now_of(argument: Argument, positions: Mapping[int, Argument]) -> str:
    for position, each in positions.items():
        if each is argument:
            return f"at position {position + 1}"
    return "only by name"


def _shape(route: OfferedRoute) -> str:
    """Return the path of *route* without the names of its variables."""
    path = route.path
    for name in route.in_path:
        path = path.replace(f"{{{name}}}", "{}")
    return path


def _by_name(
    parameters: Iterable[Argument], in_path: Iterable[str], *, takes_text: bool = False
) -> Iterator[Argument]:
    """
    Yield the arguments of a request: those of the path by number, all others by name. A path is
    text, so with *takes_text* a variable that is a text takes each value.
    """
    numbers = {name: f"{{{number}}}" for number, name in enumerate(in_path)}
    for each in parameters:
        is_any = takes_text and each.name in numbers and each.schema == _TEXT
        schema = {} if is_any else each.schema
        yield Argument(numbers.get(each.name, each.name), "keyword_only", each.required, schema)

"""
Finds the events that a service class dispatches, in its source code. Reads source files; nothing
here awaits.

``self.dispatch("sold", ...)`` names its event where it stands: no declaration could differ from the
code. An event whose type is computed, or that a function outside of the class dispatches, is not
found.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from ..wire.described import described

__all__ = ["Dispatched", "dispatched_by"]


class Dispatched(msgspec.Struct, frozen=True):
    """
    A place that dispatches an event.

    Attributes:
        payload: the type of the payload, if the code names it; else ``Any``.
        fields: the fields of a payload that is written as a dict, with their types.
    """

    event_type: str
    method: str
    payload: Any = Any
    fields: tuple[tuple[str, Any], ...] | None = None


def dispatched_by(service_cls: type, dispatchers: Collection[str]) -> list[Dispatched]:
    """
    Return where methods of *service_cls* and its bases dispatch events.

    Args:
        dispatchers: the attributes that are called with an event's type and its payload, or whose
            ``dispatch`` is.
    """
    found: list[Dispatched] = []
    seen: set[str] = set()
    for cls in service_cls.__mro__ if dispatchers else ():
        for method in _methods(cls):
            if method.name not in seen:  # else a subclass overrides it
                seen.add(method.name)
                names = vars(sys.modules.get(cls.__module__, ast))
                found += _in_method(cls, method, dispatchers, names)
    return found


def _methods(cls: type) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # object, or a class without a file
        return
    for node in getattr(tree, "body", ()):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _in_method(
    cls: type,
    method: ast.FunctionDef | ast.AsyncFunctionDef,
    dispatchers: Collection[str],
    names: Mapping[str, Any],
) -> Iterator[Dispatched]:
    for call in ast.walk(method):
        if not (isinstance(call, ast.Call) and _is_dispatcher(call.func, dispatchers)):
            continue
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        event, payload, *_ = (*call.args, None, None)
        event_type = _text(event or given.get("event_type"), cls, names)
        if event_type is not None:
            payload = payload or given.get("payload")
            yield Dispatched(
                event_type,
                method.name,
                _type_of(payload, cls, method.name, names),
                _fields_of(payload, cls, method.name, names),
            )


def _is_dispatcher(function: ast.expr, dispatchers: Collection[str]) -> bool:
    """Return whether *function* is ``self.name`` or ``self.name.dispatch``."""
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr == "dispatch" and isinstance(function.value, ast.Attribute):
        function = function.value
    is_own = isinstance(function.value, ast.Name) and function.value.id == "self"
    return is_own and function.attr in dispatchers


def _text(node: ast.expr | None, cls: type, names: Mapping[str, Any]) -> str | None:
    """Return the text that *node* is: a literal, a constant of the module or of the class."""
    value: Any = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.Name):
        value = names.get(node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = cls if node.value.id == "self" else names.get(node.value.id)
        value = getattr(owner, node.attr, None)
    return str(value) if isinstance(value, str) else None


def _type_of(node: ast.expr | None, cls: type, method: str, names: Mapping[str, Any]) -> Any:
    """Return the type of *node*: of a literal, a new object, or a parameter of *method*."""
    if isinstance(node, ast.Constant) and node.value is not None:
        return type(node.value)
    if isinstance(node, ast.Call):
        called = node.func
        made = names.get(called.id) if isinstance(called, ast.Name) else None
        return made if isinstance(made, type) else Any
    if isinstance(node, ast.Name):
        function = inspect.getattr_static(cls, method, None)
        if inspect.isfunction(function):
            parameters = described(function, skip_self=True).parameters
            return next((each.expected for each in parameters if each.name == node.id), Any)
    return Any


def _fields_of(
    node: ast.expr | None, cls: type, method: str, names: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...] | None:
    """Return the fields of a dict whose keys are all literals; ``None`` for others."""
    if not isinstance(node, ast.Dict):
        return None
    fields = []
    for key, value in zip(node.keys, node.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            return None
        fields.append((key.value, _type_of(value, cls, method, names)))
    return tuple(fields)

"""
Shows the arguments of calls as short texts, without those that are sensitive. Pure functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import chain, count, islice
from typing import Any
from uuid import UUID

from ...call import Call
from ...config.redaction import MASK, hide, redact
from ...declarations import argument_path
from ...extensions import Entrypoint
from ...logs import one_line
from ...wire.errors import text_of
from ...wire.objects import fields_of
from ...wire.signatures import signature_of
from ..sensitive import secrets_of

__all__ = ["shown_arguments"]

#: Arguments that are shown at most.
MOST = 1000
#: What is shown: levels, items of a level, and characters of a text and of an argument.
_SHOWN_DEPTH, _SHOWN_ITEMS, _SHOWN_TEXT, _SHOWN = 3, 10, 100, 300
#: Characters of a text in which secrets are looked for.
_SEARCHED = 4096
#: Types whose values are shown by their text. Only other objects could run the user's code.
_PLAIN = (bool, int, float, complex, Decimal, UUID, date, time, timedelta)


def shown_arguments(entrypoint: Entrypoint, call: Call, service_cls: type) -> dict[str, str]:
    """
    Return the arguments of *call* as short texts, by their names. Sensitive arguments are masked,
    and others whose name has a word such as password, secret or token.
    """
    secrets: tuple[str, ...] = ()
    hidden: set[str] = set()
    if entrypoint.sensitive_arguments:
        secrets = secrets_of(entrypoint, call, service_cls)
        hidden = {argument_path(name)[0] for name in entrypoint.sensitive_arguments}
    arguments = _named(entrypoint.method_name, call, service_cls)
    return {
        name: MASK if name in hidden else one_line(_shown(name, value, secrets), _SHOWN)
        for name, value in islice(arguments.items(), MOST)
    }


def _named(name: str, call: Call, service_cls: type) -> dict[str, Any]:
    """Return the arguments of *call* by the names of the method, or by their positions."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = signature_of(getattr(service_cls, name)).parameters.values()
        names = [each.name for each in parameters if each.kind in kinds]
    except (TypeError, ValueError, NameError):
        names = []
    if not isinstance(inspect.getattr_static(service_cls, name), staticmethod):
        del names[:1]  # self
    positions = (f"[{position}]" for position in count(len(names)))
    return {**dict(zip(chain(names, positions), call.args, strict=False)), **call.kwargs}


def _shown(name: str, value: Any, secrets: tuple[str, ...], depth: int = _SHOWN_DEPTH) -> str:
    """Return *value*, which *name* names, as a short text without *secrets*."""
    if isinstance(value, str):
        text = hide(value[:_SEARCHED], secrets)
        text = repr(text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}...")
    elif value is None or isinstance(value, _PLAIN):
        text = one_line(hide(text_of(value), secrets), _SHOWN_TEXT)
    elif isinstance(value, bytes | bytearray):
        text = f"<{len(value)} bytes>"
    elif isinstance(value, list | tuple | set | frozenset):
        items = islice(value, _SHOWN_ITEMS if depth else 0)
        text = f"[{_joined((_shown('', each, secrets, depth - 1) for each in items), len(value))}]"
    else:
        text = _shown_fields(value, secrets, depth)
    return str(redact(name, text))


def _shown_fields(value: Any, secrets: tuple[str, ...], depth: int) -> str:
    kind = "" if isinstance(value, Mapping) else type(value).__name__
    try:
        fields = value if isinstance(value, Mapping) else fields_of(value)
    except TypeError:
        return f"<{kind}>"
    if not isinstance(fields, Mapping):
        return f"{kind}({_shown('', fields, secrets, depth - 1)})" if depth else f"<{kind}>"
    pairs = (
        f"{_shown('', key, secrets, 0)}: {_shown(str(key), item, secrets, depth - 1)}"
        for key, item in islice(fields.items(), _SHOWN_ITEMS if depth else 0)
    )
    return f"{kind}{{{_joined(pairs, len(fields))}}}"


def _joined(parts: Iterable[str], number: int) -> str:
    shown = list(parts)
    return ", ".join([*shown, f"... ({number})"] if len(shown) < number else shown)

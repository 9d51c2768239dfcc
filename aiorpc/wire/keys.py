"""
The idempotency key of a call: its headers, and the digest of the arguments that it stands for. Pure
functions; no I/O.

A key belongs to one call. Its headers are no context data, so calls that the method makes do not
inherit it. A Nameko service sends a copy on, with the prefix ``nameko.``, which nobody reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..checks import shown
from ..context import EMPTY
from ..exceptions import BadArguments
from .headers import FilledHeaders
from .message import Message
from .names import IDEMPOTENCY_KEY, IDEMPOTENCY_SCOPE
from .objects import fields_of

__all__ = ["LONGEST_KEY", "IdempotencyKey", "digest_of", "is_key", "key_headers", "key_of"]

#: Characters of a key and of a scope.
LONGEST_KEY = 255


class IdempotencyKey(msgspec.Struct, frozen=True):
    """
    The key of a call.

    Attributes:
        scope: whose key it is, such as a user; empty if the caller names none.
    """

    text: str
    scope: str = ""


def is_key(value: Any) -> bool:
    """Return whether *value* may be a key or a scope: text that every database can store."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_KEY and value.isprintable()


def key_headers(key: str | None, scope: str | None) -> Mapping[str, Any]:
    """Return the headers of a request with this *key*; none without a key."""
    if key is None:
        return EMPTY
    headers = {IDEMPOTENCY_KEY: key}
    return headers if scope is None else {**headers, IDEMPOTENCY_SCOPE: scope}


def key_of(message: Message | None) -> IdempotencyKey | None:
    """
    Return the key of the request *message*; ``None`` if it has none.

    Raises:
        BadArguments: the key or its scope is not a text, or too long.
    """
    headers = None if message is None else message.headers
    if not headers or type(headers) is FilledHeaders or IDEMPOTENCY_KEY not in headers:
        return None
    key, scope = headers[IDEMPOTENCY_KEY], headers.get(IDEMPOTENCY_SCOPE)
    for name, value in (("idempotency_key", key), ("scope", scope)):
        if not is_key(value) and not (value is None and name == "scope"):
            raise BadArguments(
                f"the {name} of a call must be a str of 1 to {LONGEST_KEY} printable characters, "
                f"got {shown(value)}: send another one"
            )
    return IdempotencyKey(key, scope or "")


def digest_of(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """
    Return a digest of the arguments that a caller sent.

    It is the same for an argument by position and by its name, for all serializers, and for any
    order of names.

    Args:
        names: the names of the method's positional parameters.
    """
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    every = [named, list(args[len(names) :])]
    try:
        encoded = msgspec.json.encode(every, enc_hook=_builtin, order="deterministic")
    except Exception:  # noqa: BLE001 - a lone surrogate, an unusual key, or an object that fails
        encoded = repr(every).encode(errors="surrogatepass")
    return hashlib.sha256(encoded).hexdigest()


def _builtin(value: Any) -> Any:
    try:
        return fields_of(value)
    except Exception:  # noqa: BLE001 - not an object with fields
        return str(value)

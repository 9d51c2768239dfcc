"""
Reads the header ``Idempotency-Key`` of a request to the gateway. Pure functions.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException

from ..wire.keys import LONGEST_KEY, is_key
from .operations import Operation
from .requests import HttpRequest

__all__ = ["requested_key"]


def requested_key(request: HttpRequest, operation: Operation) -> str:
    """
    Return the key of *request*, without the quotes that the IETF's draft asks for.

    Raises:
        HTTPException: it is no key, or *operation* would not heed it.
    """
    if operation.idempotent is False:
        why = "is a stream" if operation.is_stream else "is not idempotent"
        raise HTTPException(
            400,
            f"{operation} {why}, so a request with an Idempotency-Key could run twice: send it "
            "without the header.",
        )
    keys = request.headers.getlist("idempotency-key")
    key = keys[0]
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(keys) > 1 or not is_key(key):
        raise HTTPException(
            400, f"Idempotency-Key must be one text of 1 to {LONGEST_KEY} printable characters."
        )
    return key

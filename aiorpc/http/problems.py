"""
Errors as HTTP answers: one table of our errors and their codes, and ``application/problem+json``
(RFC 9457). Imports Starlette's responses; nothing here awaits or logs.

The codes are those of Connect and gRPC, in lower case. The text of an answer says nothing about the
broker or the service: only errors of the caller keep their own text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..context import EMPTY
from ..exceptions import (
    BadArguments,
    BadRequest,
    CircuitOpen,
    ConnectionLost,
    InProgress,
    MethodNotFound,
    Overloaded,
    RemoteError,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
)

__all__ = ["KNOWN", "STATUSES", "Problem", "code_of", "problem_of", "problem_response"]

#: The HTTP status of each code.
STATUSES: Mapping[str, int] = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "resource_exhausted": 429,
    "canceled": 499,
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
_CODES = {status: code for code, status in STATUSES.items()}

#: The code of each error class and its subclasses, and the text of the answer. None: the error's
#: own text, which the caller of the service may see. Any other error is ``internal``.
KNOWN: Mapping[type[Exception], tuple[str, str | None]] = {
    BadRequest: ("invalid_argument", None),
    MethodNotFound: ("not_found", "The service has no such method."),
    InProgress: (
        "already_exists",
        "The first request with this idempotency key still runs. Repeat the request later.",
    ),
    Overloaded: ("resource_exhausted", "The service has too much to do. Repeat the request later."),
    UnknownService: ("unavailable", "The service does not run."),
    ServiceUnavailable: ("unavailable", "The service does not run."),
    CircuitOpen: ("unavailable", "The service does not answer. Repeat the request later."),
    ConnectionLost: ("unavailable", "The service cannot be reached, or did not answer."),
    RpcTimeout: ("deadline_exceeded", "The service did not answer in time."),
}
_INTERNAL = "The server failed. Its log has the reason{}."
#: Seconds for ``Retry-After`` if the error names none.
_RETRY_AFTER = 1


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """
    The answer to a request that failed.

    Attributes:
        status: the HTTP status.
        code: a key of :data:`STATUSES`.
        detail: a text for the client.
        errors: messages by argument and field, or another value in JSON; None if there are none.
        headers: further headers of the answer.
    """

    status: int
    code: str
    detail: str
    errors: Any = None
    headers: Mapping[str, str] = EMPTY

    def content(self, call_id: str = "") -> dict[str, Any]:
        """Return the members of the answer. *call_id* finds the call in a log."""
        content = {
            "type": "about:blank",
            "title": _phrase(self.status),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors is not None:
            content["errors"] = self.errors
        if call_id:
            content["call_id"] = call_id
        return content

    def response(self, call_id: str = "") -> Response:
        """Return the answer as ``application/problem+json``."""
        body = _encoded(self.content(call_id))
        return Response(body, self.status, dict(self.headers), "application/problem+json")


def problem_response(
    error: BaseException, *, call_id: str = "", status: int | None = None
) -> Response:
    """Return the answer for *error*; see :func:`problem_of` and :meth:`Problem.response`."""
    return problem_of(error, call_id=call_id, status=status).response(call_id)


def problem_of(error: BaseException, *, call_id: str = "", status: int | None = None) -> Problem:
    """
    Return the answer for *error*.

    Args:
        call_id: the call that failed. The text of a status of 500 or more refers to it.
        status: the status that the user chose for this error. A status below 500 then shows the
            error's text. None: the table :data:`KNOWN` decides; Starlette's ``HTTPException`` has
            its own status, text and headers.
    """
    if status is not None:
        return _chosen(error, status, call_id)
    if isinstance(error, HTTPException):
        return _of_http_exception(error)
    for kind in type(error).__mro__:
        if kind in KNOWN:
            code, text = KNOWN[kind]
            break
    else:
        code, text = "internal", _internal(call_id)
    return Problem(
        status=STATUSES[code],
        code=code,
        detail=_text(error) if text is None else text,
        errors=_messages(error),
        headers=_retry_after(error, code),
    )


def code_of(status: int) -> str:
    """Return the code of an error's HTTP *status*."""
    return _CODES.get(status) or ("invalid_argument" if status < 500 else "internal")


def _chosen(error: BaseException, status: int, call_id: str) -> Problem:
    code = code_of(status)
    headers = _retry_after(error, code)
    if status >= 500:
        return Problem(status=status, code=code, detail=_internal(call_id), headers=headers)
    messages = _messages(error)
    return Problem(status=status, code=code, detail=_text(error), errors=messages, headers=headers)


def _of_http_exception(error: HTTPException) -> Problem:
    detail: Any = error.detail  # FastAPI's HTTPException accepts any value in JSON
    is_text = isinstance(detail, str)
    return Problem(
        status=error.status_code,
        code=code_of(error.status_code),
        detail=detail if is_text else _phrase(error.status_code),
        errors=None if is_text else detail,
        headers=error.headers or EMPTY,
    )


def _text(error: BaseException) -> str:
    return error.value if isinstance(error, RemoteError) else str(error)


def _internal(call_id: str) -> str:
    return _INTERNAL.format(f" under the call id {call_id}" if call_id else "")


def _messages(error: BaseException) -> Any:
    return (error.messages or None) if isinstance(error, BadArguments) else None


def _retry_after(error: BaseException, code: str) -> Mapping[str, str]:
    seconds = getattr(error, "retry_after", None)
    waits = code == "resource_exhausted" or isinstance(error, InProgress)
    if not waits and (code != "unavailable" or seconds is None):
        return EMPTY
    return {"retry-after": str(_RETRY_AFTER if seconds is None else math.ceil(seconds))}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # 499 is nginx's
        return "Client Closed Request" if status == 499 else "Error"


def _encoded(content: Any) -> bytes:
    try:
        return msgspec.json.encode(content, enc_hook=str)
    except (ValueError, TypeError):  # a lone surrogate, or an unusual key
        return json.dumps(content, default=str, skipkeys=True).encode()

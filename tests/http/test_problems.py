"""Errors as problem+json: statuses, codes, and what a text may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from aiorpc import (
    BadArguments,
    CircuitOpen,
    ConnectionLost,
    DeliveryUncertain,
    IncorrectSignature,
    MalformedReply,
    MalformedRequest,
    MethodNotFound,
    Overloaded,
    RemoteError,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
)
from aiorpc.http.problems import STATUSES, problem_response

SECRET = "queue rpc-shop on rabbit-7.internal"


def answer_to(error: BaseException, **options: Any) -> tuple[int, dict[str, Any]]:
    response = problem_response(error, **options)
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, json.loads(bytes(response.body))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedRequest("no object"), 400, "invalid_argument"),
        (IncorrectSignature("f() missing 'x'"), 400, "invalid_argument"),
        (BadArguments("argument 'x' must be int"), 400, "invalid_argument"),
        (MethodNotFound(SECRET), 404, "not_found"),
        (Overloaded(SECRET), 429, "resource_exhausted"),
        (UnknownService("shop", SECRET), 503, "unavailable"),
        (ServiceUnavailable(SECRET), 503, "unavailable"),
        (ConnectionLost(SECRET), 503, "unavailable"),
        (RpcTimeout(SECRET), 504, "deadline_exceeded"),
        (DeliveryUncertain(SECRET), 500, "internal"),
        (MalformedReply(SECRET), 500, "internal"),
        (RemoteError("LookupError", SECRET, (SECRET,), "builtins.LookupError"), 500, "internal"),
        (TimeoutError(SECRET), 500, "internal"),
        (ValueError(SECRET), 500, "internal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_a_status_and_no_answer_shows_the_inside(
    error: Exception, status: int, code: str
) -> None:
    answered, body = answer_to(error, call_id="shop.buy.1")
    assert (answered, body["status"], body["code"]) == (status, status, code)
    assert STATUSES[code] == status
    assert body["call_id"] == "shop.buy.1"
    assert body["detail"]
    assert SECRET not in json.dumps(body)


def test_the_answer_to_a_wrong_call_has_the_text_of_the_error() -> None:
    _, body = answer_to(BadArguments("argument 'x' must be int, got str"))
    assert body == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "code": "invalid_argument",
        "detail": "argument 'x' must be int, got str",
    }


def test_messages_of_a_schema_are_in_the_answer() -> None:
    messages = {"book": {"title": ["Missing data for required field."]}}
    _, body = answer_to(BadArguments("book is wrong", messages))
    assert body["errors"] == messages


def test_an_internal_error_names_its_call_id() -> None:
    _, body = answer_to(ValueError(SECRET), call_id="shop.buy.1")
    assert "shop.buy.1" in body["detail"]


def test_an_open_circuit_is_unavailable_and_says_when_to_come_back() -> None:
    response = problem_response(CircuitOpen("open", retry_after=1.5))
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert "retry-after" not in problem_response(ServiceUnavailable("none")).headers


def test_an_overloaded_service_says_when_to_come_back() -> None:
    error = Overloaded("busy")
    assert problem_response(error).headers["retry-after"] == "1"
    vars(error)["retry_after"] = 2.5
    assert problem_response(error).headers["retry-after"] == "3"


def test_a_chosen_status_shows_the_text_of_the_remote_error() -> None:
    error = RemoteError("NotFound", "no book 7", ("no book 7",), "shop.errors.NotFound")
    status, body = answer_to(error, status=404)
    assert (status, body["code"], body["detail"]) == (404, "not_found", "no book 7")
    status, body = answer_to(error, status=422)
    assert (status, body["code"]) == (422, "invalid_argument")
    status, body = answer_to(error, status=502)
    assert (status, body["code"]) == (502, "internal")
    assert "no book" not in body["detail"]


def test_starlettes_exception_keeps_its_status_text_and_headers() -> None:
    error = HTTPException(401, "log in first", {"WWW-Authenticate": "Basic"})
    response = problem_response(error)
    assert response.headers["www-authenticate"] == "Basic"
    status, body = answer_to(error)
    assert (status, body["code"], body["detail"]) == (401, "unauthenticated", "log in first")


def test_a_detail_in_json_is_in_errors() -> None:
    given: Any = {"field": ["wrong", object]}  # FastAPI accepts any value
    _, body = answer_to(HTTPException(422, given))
    assert body["errors"] == {"field": ["wrong", "<class 'object'>"]}


def test_any_text_can_be_sent() -> None:
    status, body = answer_to(BadArguments("half a pair: \ud800"))
    assert (status, body["detail"]) == (400, "half a pair: \ud800")

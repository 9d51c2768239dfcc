"""Which requests the console answers: the rules on top of ``gate.py``, one by one."""

from __future__ import annotations

import hmac

import pytest

from aiorpc.console.gate import LIVE, PAGE_HEADER, TOKEN_HEADER, Gate, is_loopback

TOKEN = "a-long-token"
OWN = {"host": "127.0.0.1:8800"}
#: What the page sends with a changing request.
CHANGE = {
    **OWN,
    "origin": "http://127.0.0.1:8800",
    "sec-fetch-site": "same-origin",
    "content-type": "application/json",
    TOKEN_HEADER: TOKEN,
}


def status(
    method: str,
    headers: dict[str, str],
    *,
    path: str = "/",
    bind: str = "127.0.0.1",
    token: str | None = TOKEN,
) -> int | None:
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    refusal = Gate(bind, token).refusal(method, path, given)
    return None if refusal is None else refusal.status


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in CHANGE.items() if key != name}


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("LocalHost", True)),
        *(("0.0.0.0", False), ("", False), ("10.0.0.1", False), ("::", False), ("ada", False)),
    ],
)
def test_rule_1_an_address_is_of_this_machine_or_not(host: str, *, is_local: bool) -> None:
    assert is_loopback(host) is is_local


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_rule_2_a_console_that_shows_only_answers_get_only(method: str) -> None:
    assert status("GET", OWN, token=None) is None
    assert status(method, CHANGE, token=None) == (403 if method == "POST" else 405)
    assert status(method, CHANGE) == (None if method == "POST" else 405)


@pytest.mark.parametrize("token", ["", "a-long-toke", "a-long-token ", "A-LONG-TOKEN", "é"])
def test_rule_3_a_change_needs_the_token(token: str) -> None:
    assert status("POST", CHANGE) is None
    assert status("POST", {**CHANGE, TOKEN_HEADER: token}) == 401
    assert status("POST", without(TOKEN_HEADER)) == 401


def test_rule_3_the_token_is_given_once() -> None:
    given = [(name.encode(), value.encode()) for name, value in CHANGE.items()]
    twice = [*given, (TOKEN_HEADER.upper().encode(), TOKEN.encode())]
    refusal = Gate("127.0.0.1", TOKEN).refusal("POST", "/", twice)
    assert refusal is not None
    assert refusal.status == 401


def test_rule_3_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert status("POST", {**CHANGE, TOKEN_HEADER: "no"}) == 401
    assert compared == [(b"no", TOKEN.encode())]


@pytest.mark.parametrize(
    ("bind", "host", "answers"),
    [
        *(("127.0.0.1", "127.0.0.1:8800", True), ("127.0.0.1", "localhost:9000", True)),
        *(("127.0.0.1", "LOCALHOST", True), ("127.0.0.1", "[::1]:8800", True)),
        *(("127.0.0.1", "evil.example", False), ("127.0.0.1", "evil.example:8800", False)),
        *(("127.0.0.1", "127.0.0.1.evil.example", False), ("127.0.0.1", "localhost.", False)),
        *(("127.0.0.1", "10.0.0.1:8800", False), ("127.0.0.1", "", False)),
        *(("127.0.0.1", ":8800", False), ("127.0.0.1", "[::1", True)),
        *(("", "10.0.0.1:8800", True), ("0.0.0.0", "evil.example", False)),
        *(("ada.local", "ada.local:8800", True), ("ada.local", "eve.local:8800", False)),
    ],
)
def test_rule_4_a_foreign_name_gets_no_answer(bind: str, host: str, *, answers: bool) -> None:
    expected = None if answers else 421
    assert status("GET", {"host": host}, bind=bind) == expected
    origin = {"origin": f"http://{host}"}
    assert status("POST", {**CHANGE, "host": host, **origin}, bind=bind) == expected


def test_rule_4_a_request_has_one_host() -> None:
    assert status("GET", {}) == 421
    twice = [(b"host", b"127.0.0.1:8800"), (b"Host", b"evil.example")]
    refusal = Gate("127.0.0.1", None).refusal("GET", "/", twice)
    assert refusal is not None
    assert refusal.status == 421


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:8801"),
        *("http://localhost:8800", "http://127.0.0.1:8800/", "http://evil.example:8800"),
    ],
)
def test_rule_5_a_foreign_origin_is_refused(origin: str) -> None:
    assert status("GET", {**OWN, "origin": origin}) == 403
    assert status("POST", {**CHANGE, "origin": origin}) == 403


def test_rule_5_a_change_has_an_origin_and_a_look_needs_none() -> None:
    assert status("POST", without("origin")) == 403
    assert status("GET", OWN) is None
    assert status("GET", {**OWN, "origin": CHANGE["origin"]}) is None
    behind_tls = {**CHANGE, "origin": "https://127.0.0.1:8800"}
    assert status("POST", behind_tls) is None


@pytest.mark.parametrize(
    ("site", "mode", "get", "post"),
    [
        ("same-origin", "cors", None, None),
        ("none", "navigate", None, 403),
        ("cross-site", "navigate", None, 403),  # a link; it shows nothing to the other site
        ("cross-site", "cors", 403, 403),
        ("cross-site", "no-cors", 403, 403),
        ("same-site", "cors", 403, 403),  # another port of this machine
        ("other", "cors", 403, 403),
    ],
)
def test_rule_5_a_browser_says_which_site_asks(
    site: str, mode: str, get: int | None, post: int | None
) -> None:
    said = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    assert status("GET", {**OWN, **said}) == get
    assert status("POST", {**CHANGE, **said}) == post


@pytest.mark.parametrize("path", ["/api/console", "/api/parked/messages", "/api/live/"])
def test_rule_5_data_are_read_by_the_page_only(path: str) -> None:
    asks = {**OWN, "sec-fetch-site": "same-origin"}
    assert status("GET", asks, path=path) == 403
    assert status("GET", {**asks, PAGE_HEADER: "1"}, path=path) is None
    assert status("GET", asks, path=LIVE) is None
    link = {**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert status("GET", {**link, PAGE_HEADER: "1"}, path=path) == 403
    assert status("GET", link, path=LIVE) == 403


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "text/plain;application/json"]
)
def test_rule_6_a_change_is_json(kind: str) -> None:
    assert status("POST", {**CHANGE, "content-type": kind}) == 415
    assert status("POST", {**CHANGE, "content-type": "application/json; charset=utf-8"}) is None

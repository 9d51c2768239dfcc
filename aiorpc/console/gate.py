"""
Decides which requests the console answers, and with which headers. Pure functions.

Whoever can make a browser send a request is no user: any web page can post to loopback. So:

1. The console listens on loopback, unless ``--bind`` says otherwise. Then the command warns.
2. Without ``--allow-changes``, it answers GET only, and no GET changes anything.
3. With it, each changing request needs the token that the command prints, in a header, on loopback
   too. The token is compared in constant time, and stands in no URL that a browser sends.
4. ``Host`` is ``localhost``, an address, or the name in ``--bind``. So a foreign name that resolves
   to this machine (DNS rebinding) gets no answer. While the console listens on loopback, the
   address is one of loopback.
5. ``Origin``, if there is one, is the console's own, and a changing request has one. A browser that
   says that the request comes from another site (``Sec-Fetch-Site``) gets no answer, except for the
   page itself. All data but the live figures need a header that a link or an image cannot send,
   because reading parked messages marks them as redelivered. A link on another site can open the
   page at a parked queue. Then the page reads nothing until its user has done something on it.
6. A changing request is JSON: a form cannot send it, and a script of another site needs permission
   (CORS), which the console never gives.
7. The page runs no inline script and loads nothing from elsewhere; no page may frame it
   (Content-Security-Policy). Browsers guess no types (nosniff), and keep nothing (no-store).
8. The page makes no HTML of texts: ``require-trusted-types-for`` and ``trusted-types 'none'`` turn
   each attempt into an error.
9. Sensitive arguments and secrets by name are masked as ``aiorpc parked show`` and the logs mask
   them. No answer has the password of the broker or of the management API.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

__all__ = ["HEADERS", "LIVE", "PAGE_HEADER", "TOKEN_HEADER", "Denial", "Gate", "is_loopback"]

#: The header with the token, and the one that a page sends when it reads data.
TOKEN_HEADER = "aiorpc-console-token"
PAGE_HEADER = "aiorpc-console-page"
#: What ``EventSource`` reads, which can send no header.
LIVE = "/api/live"

_POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
    *("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    *("require-trusted-types-for 'script'", "trusted-types 'none'"),
)
#: The headers of every answer.
HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Denial(NamedTuple):
    """The status and the text of an answer that refuses."""

    status: int
    text: str


class Gate:
    """
    Refuses requests.

    Args:
        host: the address or the name that the console listens on.
        token: what a changing request needs; ``None``: no request may change anything.
    """

    def __init__(self, host: str, token: str | None) -> None:
        self._name = host.lower()
        self._is_local = is_loopback(host)
        self._token = token

    def refusal(
        self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]
    ) -> Denial | None:
        """Return why a request is refused; ``None``: it is not."""
        given: dict[str, list[str]] = {}
        for name, value in headers:
            given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = given.get("host", []), given.get("origin", [])
        if len(hosts) != 1 or not self._is_own(_name_of(hosts[0])):
            return Denial(421, "The console does not have this name: open the URL that it printed")
        own = {f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()}
        is_foreign = any(each.lower() not in own for each in origins)
        sites = set(given.get("sec-fetch-site", []))
        if method == "GET":
            return self._refusal_of_look(path, given, is_foreign=is_foreign, sites=sites)
        if method != "POST":
            return Denial(405, "The console answers GET and POST")
        if is_foreign or len(origins) != 1 or sites - {"same-origin"}:
            return Denial(403, "Another site sent this request, or its Origin is missing")
        return self._refusal_of_change(given)

    def _refusal_of_look(
        self, path: str, given: dict[str, list[str]], *, is_foreign: bool, sites: set[str]
    ) -> Denial | None:
        is_data = path.startswith("/api/")
        # A link on another site may open the page; its scripts get nothing.
        may_link = not is_data and given.get("sec-fetch-mode") == ["navigate"]
        if is_foreign or (sites - _OWN_SITES and not may_link):
            return Denial(403, "Another site sent this request")
        if is_data and path != LIVE and PAGE_HEADER not in given:
            return Denial(403, f"The header {PAGE_HEADER} is missing: only the page reads this")
        return None

    def _refusal_of_change(self, given: dict[str, list[str]]) -> Denial | None:
        if self._token is None:
            text = "This console shows only: start it with --allow-changes"
            return Denial(403, text)
        tokens = given.get(TOKEN_HEADER, [])
        if len(tokens) != 1 or not hmac.compare_digest(tokens[0].encode(), self._token.encode()):
            return Denial(401, f"The token in {TOKEN_HEADER} is wrong: `aiorpc console` printed it")
        kind = given.get("content-type", [""])[0].partition(";")[0].strip().lower()
        if kind != "application/json":
            return Denial(415, "The body must be application/json")
        return None

    def _is_own(self, name: str) -> bool:
        if name in ("localhost", self._name):
            return bool(name)
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._is_local


#: Requests of the page itself, and those that the user made by typing the URL.
_OWN_SITES = {"same-origin", "none"}


def is_loopback(host: str) -> bool:
    """Return whether *host*, an address or a name, can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """Return the name or the address in the header ``Host``, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()

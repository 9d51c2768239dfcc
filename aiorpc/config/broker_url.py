"""
Parses ``AMQP_URI`` like kombu. Does no I/O. Imports ``exceptions`` and ``redaction``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from ..exceptions import ConfigurationError
from .redaction import MASK, redact_url

__all__ = ["BrokerUrl", "parse_broker_urls"]

_SCHEMES: Mapping[str, Literal["amqp", "amqps", "memory"]] = {
    "amqp": "amqp",
    "pyamqp": "amqp",  # kombu's name for its pure Python transport, in every Nameko config
    "amqps": "amqps",
    "memory": "memory",
}
_PORTS = {"amqp": 5672, "amqps": 5671}
_FLAGS = {"1": True, "true": True, "yes": True, "on": True}
_FLAGS |= {"0": False, "false": False, "no": False, "off": False}

# TLS parameters of aio-pika and of RabbitMQ's URI specification, as options of AMQP_SSL.
_TLS_PARAMETERS = {
    "cacertfile": "ca_certs",
    "cafile": "ca_certs",
    "certfile": "certfile",
    "keyfile": "keyfile",
    "server_name_indication": "server_hostname",
}
_ABOUT_TLS = ("verify", "no_verify_ssl", *_TLS_PARAMETERS)
_PARAMETERS = (
    *("heartbeat", "connect_timeout", "connection_timeout", "timeout"),
    *("login_method", "auth", "auth_mechanism", "name", "insist"),
    *("ssl", *_ABOUT_TLS),
)


class BrokerUrl(msgspec.Struct, frozen=True, kw_only=True):
    """
    The percent-decoded URL of a broker. Hashable. ``str`` and ``repr`` hide the password.

    For ``memory://name``, ``host`` is the name, which may be empty. The other fields are unused.
    """

    scheme: Literal["amqp", "amqps", "memory"]
    host: str
    port: int = 0
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    query: tuple[tuple[str, str], ...] = ()

    @property
    def heartbeat(self) -> int | None:
        """``heartbeat`` of the query, in whole seconds. This value overrides ``HEARTBEAT``."""
        seconds = self._number("heartbeat")
        return None if seconds is None else math.ceil(seconds)

    @property
    def connect_timeout(self) -> float | None:
        """
        Seconds to connect: kombu's ``connect_timeout`` or aio-pika's ``timeout``, else
        ``connection_timeout``, which is in milliseconds in RabbitMQ's URI specification.
        """
        for name, unit in (("connect_timeout", 1), ("timeout", 1), ("connection_timeout", 1000)):
            if (number := self._number(name)) is not None:
                return number / unit
        return None

    @property
    def login_method(self) -> str | None:
        """SASL mechanism of the query, in upper case. This value overrides ``LOGIN_METHOD``."""
        query = dict(self.query)
        names = (name for name in ("login_method", "auth", "auth_mechanism") if name in query)
        return query.get(next(names, ""), "").upper() or None

    @property
    def tls_options(self) -> dict[str, Any]:
        """The TLS parameters of the query. These options override the options in ``AMQP_SSL``."""
        query = dict(self.query)
        verified = []
        if (verify := query.get("verify")) is not None:
            if verify not in {"verify_peer", "verify_none"}:
                raise ValueError(f"verify must be verify_peer or verify_none, got {verify!r}")
            verified.append(verify == "verify_peer")
        if "no_verify_ssl" in query:
            verified.append(not _flag(query, "no_verify_ssl"))
        if len(set(verified)) == 2:
            raise ValueError("verify and no_verify_ssl contradict each other")
        given = ((option, query.get(name)) for name, option in _TLS_PARAMETERS.items())
        files: dict[str, Any] = {option: value for option, value in given if value}
        if not verified:
            return files
        no_check = {"cert_reqs": 0, "check_hostname": False}
        return files | ({"cert_reqs": 2} if verified[0] else no_check)

    def to_url(self, **query: str | float) -> str:
        """
        Return the percent-encoded URL for aio-pika, with the password. The query has only the
        parameters in *query*, because aio-pika does not understand kombu's parameters.
        """
        if self.scheme == "memory":
            return f"memory://{self.host}"
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return self._with_credentials(credentials) + (f"?{urlencode(query)}" if query else "")

    def redacted(self) -> str:
        """The URL for logs and errors, without password and query."""
        if self.scheme == "memory":
            return self.to_url()
        return self._with_credentials(f"{quote(self.user, safe='')}:{MASK}")

    def _with_credentials(self, credentials: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = "" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"{self.scheme}://{credentials}@{host}:{self.port}/{path}"

    def _number(self, name: str) -> float | None:
        text = dict(self.query).get(name)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = -1
        if not 0 <= number < 1_000_000:
            raise ValueError(f"{name} must be a number >= 0, got {text!r}")
        return number

    __str__ = redacted

    def __repr__(self) -> str:
        return f"BrokerUrl({self.redacted()!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.redacted())]


def parse_broker_urls(text: str, *, tls: bool = False) -> tuple[BrokerUrl, ...]:
    """
    Parse ``AMQP_URI`` like kombu: ``[py]amqp[s]://user:password@host:port/vhost?query``.

    Each part is optional. User, password, host and vhost are percent-encoded. ``;`` separates
    alternative URLs. Defaults: guest:guest@localhost, port 5672 (TLS: 5671), vhost ``/``. An empty
    path and ``//`` mean the vhost ``/`` too. ``memory://name`` is a broker in this process. ``tls``
    (``AMQP_SSL`` is set), or ``ssl=1`` in the query, changes ``amqp`` to ``amqps``.

    Raises:
        ConfigurationError: the text has the URL without its password.
    """
    try:
        parts = [part.strip() for part in text.split(";")]
        urls = tuple(_parse_broker_url(part, tls) for part in parts if part)
    except ValueError as problem:
        shown = redact_url(text, _PARAMETERS) if "://" in text else "(not shown)"
        raise ConfigurationError(f"AMQP_URI {shown}: {problem}") from None
    if not urls:
        raise ConfigurationError(
            "AMQP_URI is empty: write for example amqp://guest:guest@localhost:5672/"
        )
    if len(urls) > 1 and any(url.scheme == "memory" for url in urls):
        raise ConfigurationError("AMQP_URI: memory:// cannot be one of several URLs: use it alone")
    return urls


def _parse_broker_url(text: str, tls: bool) -> BrokerUrl:
    """Parse one URL. Raises ``ValueError`` without secrets in its text."""
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        raise ValueError(
            "the URL needs a scheme, as in amqp://guest:guest@localhost/ "
            "(in a password, write %3B for ;)"
        )
    known_scheme = _SCHEMES.get(scheme.lower())
    if known_scheme is None:
        raise ValueError(f"scheme {scheme!r} is not one of {', '.join(_SCHEMES)}")
    if known_scheme == "memory":
        name = rest.removesuffix("/")
        if re.fullmatch(r"[\w.-]*", name):
            return BrokerUrl(scheme="memory", host=name)
        raise ValueError("memory:// may only have a name of letters, digits, . - _ after it")
    parts, port = _split(rest)
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    for name, _ in query:
        if name not in _PARAMETERS:
            known = ", ".join(_PARAMETERS)
            raise ValueError(f"unknown query parameter {name!r}; known are {known}")
    if tls or _flag(dict(query), "ssl"):
        known_scheme = "amqps"
    url = BrokerUrl(
        scheme=known_scheme,
        host=unquote(parts.hostname or "") or "localhost",
        port=port or _PORTS[known_scheme],
        user=unquote(parts.username or "") or "guest",
        password=unquote(parts.password or "") or "guest",
        vhost=unquote(parts.path[1:]) or "/",
        query=query,
    )
    _ = url.heartbeat, url.connect_timeout, url.tls_options  # raises now if one of them is wrong
    needs_tls = next((name for name, _ in query if name in _ABOUT_TLS), None)
    if needs_tls and url.scheme == "amqp":
        raise ValueError(
            f"{needs_tls} needs TLS, and the URL has plain TCP: write amqps://, or set AMQP_SSL"
        )
    return url


def _split(rest: str) -> tuple[SplitResult, int | None]:
    """Split the text after the scheme. Return its parts, and the port as an int."""
    try:
        parts = urlsplit(f"http://{rest}")
        port = parts.port
    except ValueError:
        parts, port = None, None
    # The errors of urlsplit quote the text, which may be a part of a password. An @ after the host
    # belongs to a password with / or ? in it.
    if parts is None or parts.fragment or "@" in parts.path + parts.query:
        raise ValueError(
            "cannot find host and port: write special characters in user, password and "
            "vhost percent-encoded: @ is %40, : is %3A, / is %2F, # is %23, ? is %3F"
        )
    return parts, port


def _flag(query: Mapping[str, str], name: str) -> bool:
    word = query.get(name, "0").lower()
    if word not in _FLAGS:
        raise ValueError(f"{name} must be 1 or 0, got {query[name]!r}")
    return _FLAGS[word]

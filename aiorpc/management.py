"""
Reads RabbitMQ's management API, which tells what AMQP cannot: lists of queues, policies, bindings
and permissions. For tools that look: it sends only GET requests.

Does HTTP in threads. Each request has a time limit. Imports ``config`` and ``exceptions``.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import ssl
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from .blocking import in_thread
from .config import BrokerUrl, Settings, TlsOptions, redact_url, ssl_context
from .exceptions import ConfigurationError, ConnectionLost

__all__ = ["ListedQueue", "Management", "ManagementRefused"]

#: Seconds for one step of a request: to connect, and to read from the socket.
TIMEOUT = 5.0
#: Seconds for a whole request. A large broker takes long for a page of its queues.
WHOLE = 30.0
#: The port of the plugin without TLS, and with TLS.
_PORTS = {"http": 15672, "https": 15671}
_PAGE = 500


class ManagementRefused(ConfigurationError):
    """
    The management API refused a request.

    Attributes:
        status: the status of HTTP: 401 or 403 for wrong credentials, or for a user without the tag
            that the request needs; 404 for an object that does not exist.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ListedQueue(msgspec.Struct, frozen=True):
    """
    A queue as the management API lists it. Numbers are ``None`` for a queue that is down, and for
    one that was declared less than 5 s ago: the broker collects statistics at that interval.
    """

    name: str
    type: str = "classic"
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Any = None
    policy: str | None = None
    operator_policy: str | None = None
    effective_policy_definition: Any = None
    #: ``running``, or why it does not run: ``down``, ``minority``, ``crashed``, ``stopped``.
    state: str = "running"
    messages: int | None = None
    messages_ready: int | None = None
    messages_unacknowledged: int | None = None
    consumers: int | None = None
    #: When the queue was last used, in the broker's words.
    idle_since: str | None = None
    #: Seconds since 1970 at which the oldest message was sent, if its publisher said so.
    head_message_timestamp: Any = None
    message_stats: Any = None

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments of the declaration."""
        return self.arguments if isinstance(self.arguments, dict) else {}

    @property
    def policies(self) -> Mapping[str, Any]:
        """What policies and operator policies set on the queue."""
        found = self.effective_policy_definition
        return found if isinstance(found, dict) else {}  # an empty one is a list in RabbitMQ 3.10

    @property
    def delivering(self) -> float | None:
        """Messages per second that the broker delivers now; ``None`` if it never delivered one."""
        stats = self.message_stats if isinstance(self.message_stats, dict) else {}
        rate: float | None = stats.get("deliver_get_details", {}).get("rate")
        return rate


class _Page(msgspec.Struct):
    items: list[ListedQueue]
    page_count: int


class Management:
    """
    The management API of one broker.

    Args:
        url: ``http[s]://user:password@host:port``. Without a user, the user of *settings* logs in.
        settings: the configuration of the broker; ``AMQP_SSL`` verifies the certificate of https.

    Raises:
        ConfigurationError: *url* is not such a URL.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        broker = settings.broker_urls[0]
        self.url, self._secure, self._host, self._port, self._path, login = _parsed(url, broker)
        self._authorization = f"Basic {base64.b64encode(login).decode()}"
        self._tls = _tls_of(settings, broker) if self._secure else None

    async def get(self, *path: str, **query: str | int) -> Any:
        """
        Return the decoded answer for ``/api/<path>``. The parts of *path* are encoded here.

        Raises:
            ManagementRefused: the API refuses the request.
            ConfigurationError: something else answers at the URL.
            ConnectionLost: nothing answers at the URL.
        """
        answer, _ = await self._request(path, query)
        return answer

    async def queues(self, vhost: str) -> list[ListedQueue]:
        """Return all queues of *vhost*. Raises like :meth:`get`."""
        found: list[ListedQueue] = []
        number = 1
        while True:
            answer = await self.get("queues", vhost, page=number, page_size=_PAGE)
            try:
                page = msgspec.convert(answer, _Page, strict=False)
            except msgspec.ValidationError as error:
                raise self._is_another() from error
            found += page.items
            number += 1
            if number > page.page_count or not page.items:
                return found

    async def ahead(self) -> tuple[float, float]:
        """
        Return how many seconds the clock of the API's host is ahead of ours, and how exact that is.
        Raises like :meth:`get`.
        """
        began = time.time()
        _, date = await self._request(("whoami",), {})
        ended = time.time()
        if date is None:
            raise ConfigurationError(f"{self.url} answers without a date: a proxy removes it")
        # The date has whole seconds, so half a second is added on the average.
        return date.timestamp() + 0.5 - (began + ended) / 2, 0.5 + (ended - began) / 2

    async def _request(
        self, path: tuple[str, ...], query: Mapping[str, str | int]
    ) -> tuple[Any, datetime | None]:
        target = f"{self._path}/api/{'/'.join(quote(part, safe='') for part in path)}"
        target += f"?{urlencode(query)}" if query else ""
        try:
            async with asyncio.timeout(WHOLE):
                status, body, date = await in_thread(self._exchange, target)
        except (OSError, http.client.HTTPException) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise ConnectionLost(
                f"{self.url} cannot be asked: {reason or type(error).__name__}. Check its host and "
                "port (15672; with TLS 15671), and that the plugin rabbitmq_management is enabled"
            ) from error
        if status != http.client.OK:
            raise ManagementRefused(status, _refusal(self.url, "/".join(path), status))
        try:
            return msgspec.json.decode(body), None if date is None else parsedate_to_datetime(date)
        except ValueError as error:
            raise self._is_another() from error

    def _is_another(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.url} does not answer as RabbitMQ's management API does: name its address"
        )

    def _exchange(self, target: str) -> tuple[int, bytes, str | None]:
        connection: http.client.HTTPConnection
        if self._secure:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        try:
            connection.request("GET", target, headers={"Authorization": self._authorization})
            with connection.getresponse() as response:
                return response.status, response.read(), response.headers.get("Date")
        finally:
            connection.close()


def _parsed(url: str, broker: BrokerUrl) -> tuple[str, bool, str, int, str, bytes]:
    """Return the URL without its password, whether it has TLS, host, port, path and login."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _PORTS or not parts.hostname:
        shown = redact_url(url) if "://" in url else "(not shown)"
        raise ConfigurationError(
            f"{shown} is not the URL of a management API: write "
            "http://user:password@host:15672, with special characters percent-encoded"
        )
    user, password = broker.user, broker.password
    if parts.username:
        user, password = unquote(parts.username), unquote(parts.password or "")
    port = port or _PORTS[parts.scheme]
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/api")
    shown = f"{parts.scheme}://{name}:{port}{path}"
    login = f"{user}:{password}".encode()
    return shown, parts.scheme == "https", parts.hostname, port, path, login


def _tls_of(settings: Settings, broker: BrokerUrl) -> ssl.SSLContext:
    """Return the context of the broker's connection, but check the name of the API's host."""
    options = settings.amqp_ssl
    if broker.scheme == "amqps" and isinstance(options, TlsOptions):
        context = ssl_context(settings, broker)
        if context is not None:
            return context
    return ssl.create_default_context()


def _refusal(url: str, path: str, status: int) -> str:
    what = f"{url} refuses {path} with the status {status}"
    if status in {401, 403}:  # RabbitMQ 3.10 answers 401 to a user without the tag, too
        return (
            f"{what}: the user or the password is wrong (http://user:password@host:15672), or the "
            "user lacks a tag: monitoring, or administrator for permissions and limits "
            "(rabbitmqctl set_user_tags USER administrator)"
        )
    return f"{what}: it does not exist there" if status == http.client.NOT_FOUND else what

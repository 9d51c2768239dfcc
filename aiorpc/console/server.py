"""
Runs the console: one connection for all looks, the task that looks, and the address.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec

from .. import __version__
from ..config import Settings, parse_address
from ..hosting.discovery.asking import asking
from ..http.listener import Listener
from ..management import Management
from ..transports import open_transport
from .app import ConsoleApp
from .describing import Describing
from .gate import Gate, is_loopback
from .live import Live
from .parking import ParkedMessages
from .trying import Trying

__all__ = ["ConsoleServer"]

#: Seconds until the broker must answer at the start, and that requests may take at the end.
CONNECT_TIMEOUT, CLOSE_WITHIN = 5.0, 1.0
#: Bytes of the headers of a request at most.
MAX_HEADERS = 16 * 1024


class ConsoleServer:
    """
    Serves the page.

    Args:
        bind: ``[address:]port``.
        allow_changes: whether the page may call methods and replay messages, with the token.
        management: the URL of RabbitMQ's management API, which lists all queues.
        interval, wait: seconds between two looks, and to wait for answers.

    Attributes:
        token: what a changing request needs; ``None``: nothing can be changed.

    Raises:
        ConfigurationError: *bind* is no address, or *management* no URL of that kind.
    """

    def __init__(
        self,
        settings: Settings,
        bind: str,
        *,
        allow_changes: bool = False,
        management: str | None = None,
        interval: float = 2.0,
        wait: float = 0.5,
    ) -> None:
        # A message of any size may be parked, and the broker has its own limit.
        self._settings = msgspec.structs.replace(settings, max_message_size=None)
        self._host, self._port = parse_address(bind, "--bind")
        self.token = secrets.token_urlsafe(24) if allow_changes else None
        self._management = None if management is None else Management(management, settings)
        self._interval, self._wait = interval, wait

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        """
        Serve inside the block, and yield the URL.

        Raises:
            ConfigurationError: the address cannot be used, or the broker refuses us.
            ConnectionLost: the broker does not answer within 5 s.
        """
        async with self.application() as app:
            address = f"{self._host}:{self._port}"
            listener = await Listener.open(app, address, key="--bind", max_headers=MAX_HEADERS)
            try:
                yield listener.url
            finally:
                app.live.stop()
                await listener.aclose(CLOSE_WITHIN)

    @asynccontextmanager
    async def application(self) -> AsyncGenerator[ConsoleApp]:
        """Connect, and yield the ASGI application. Raises like :meth:`open`."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            transport = await stack.enter_async_context(
                aclosing(open_transport(settings, name="aiorpc console"))
            )
            await transport.start(CONNECT_TIMEOUT)
            asker = await stack.enter_async_context(asking(transport))
            live = Live(transport, asker, interval=self._interval, wait=self._wait)
            # An Asker of its own: it has the answers to one question at a time.
            own = await stack.enter_async_context(asking(transport))
            describing = Describing(own, self._wait)
            parking = await stack.enter_async_context(
                aclosing(ParkedMessages(transport, settings, self._management, self._wait))
            )
            trying = None
            if self.token is not None:
                trying = await stack.enter_async_context(aclosing(Trying(settings)))
            looking = asyncio.create_task(live.run(), name="aiorpc console: look")
            stack.push_async_callback(_cancelled, looking)
            facts = self._facts(transport.url)
            gate = Gate(self._host, self.token)
            yield ConsoleApp(gate, live, describing, parking, trying, facts)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        return is_loopback(self._host)

    def _facts(self, url: str) -> dict[str, Any]:
        return {
            "broker": url,
            "version": __version__,
            "changes": self.token is not None,
            "management": self._management is not None,
            "interval": self._interval,
        }


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))

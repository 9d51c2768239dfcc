"""
How a connection to RabbitMQ comes about: the broker's URLs are tried until one of them answers.

Touches nothing but sockets, through ``link``; what a connection is good for does not matter
here. The transport keeps one dialer for its life.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from ...config import BrokerUrl
from ...exceptions import ConfigurationError
from .backoff import Backoff
from .errors import reason
from .link import Link

__all__ = ["Dialer"]

log = logging.getLogger(__name__)

_NOT_TRIED = "no attempt was made yet"


class Dialer:
    """
    Args:
        urls: where the broker is; several are nodes of one cluster.
        name: of the connection, for the log.
        link: a link to one of *urls*, not opened yet.
        failed: told after each round in which none answered, with the reason.
    """

    def __init__(
        self,
        urls: tuple[BrokerUrl, ...],
        *,
        name: str,
        link: Callable[[BrokerUrl], Link],
        failed: Callable[[str], None],
    ) -> None:
        self.urls = urls
        #: Why there is no connection: of the last attempt, or of the last connection's end.
        self.trouble = _NOT_TRIED
        self._name = name
        self._new_link = link
        self._failed = failed
        #: Clear while :meth:`forbid` keeps the broker out of reach.
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._restoring: asyncio.TimerHandle | None = None

    async def dial(self, backoff: Backoff, *, first: bool) -> Link:
        """
        Try the URLs, in another order each round, until one answers.

        Raises:
            ConfigurationError: *first*, and those that answer will not have us.
        """
        told: set[str] = set()
        while True:
            await self._reachable.wait()
            urls = list(self.urls)
            random.shuffle(urls)
            refusal: ConfigurationError | None = None
            for url in urls:
                if self.trouble is _NOT_TRIED:
                    self.trouble = f"{url}: no answer yet"
                try:
                    link = self._new_link(url)
                    await link.open()
                except ConfigurationError as error:
                    refusal = error
                    self.trouble = str(error)
                except OSError as error:
                    self.trouble = f"{url}: {reason(error)}"
                except Exception as error:  # noqa: BLE001 - whatever the host's name, or a bug, does
                    self.trouble = f"{url}: {type(error).__name__}: {error}"
                else:
                    return link
            if refusal is not None and first:
                raise refusal
            self._failed(f"not connected ({self.trouble})")
            # When a connection was lost, a line has said so; here is only what is news after that.
            if self.trouble not in told and (first or refusal is not None):
                told.add(self.trouble)
                log.warning("%s: no connection yet, trying on: %s", self._name, self.trouble)
            await asyncio.sleep(backoff.next())

    def forbid(self, pause: float | None) -> None:
        """Dial no more for *pause* seconds, or until :meth:`allow`. For tests."""
        self._reachable.clear()
        self.close()
        if pause is not None:
            self._restoring = asyncio.get_running_loop().call_later(pause, self.allow)

    def allow(self) -> None:
        """Dial again."""
        self._reachable.set()

    def close(self) -> None:
        """Leave no timer behind."""
        if self._restoring is not None:
            self._restoring.cancel()
            self._restoring = None

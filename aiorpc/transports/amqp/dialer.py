"""
Connects to RabbitMQ: tries the broker's URLs until a broker answers. Does I/O through ``link``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from ...config import BrokerUrl
from ...exceptions import ConfigurationError
from ...logs import logger
from ..backoff import Backoff
from .errors import reason
from .link import Link

__all__ = ["Dialer"]

log = logger(__name__)

_NOT_TRIED = "no attempt was made yet"


class Dialer:
    """
    Args:
        urls: the broker's URLs; several URLs are nodes of one cluster.
        name: the connection's name, for the log.
        connect: opens a link to one URL. ``aiorpc.testing`` replaces it to simulate an outage.
        failed: called with the reason after each round in which no URL answered.

    Attributes:
        patient: see :meth:`..base.Transport.start`.
        trouble: why there is no connection: the error of the last attempt, or of the lost
            connection.
    """

    def __init__(
        self,
        urls: tuple[BrokerUrl, ...],
        *,
        name: str,
        connect: Callable[[BrokerUrl], Awaitable[Link]],
        failed: Callable[[str], None],
    ) -> None:
        self.urls = urls
        self.connect = connect
        self.patient = False
        self.trouble = _NOT_TRIED
        self._name = name
        self._failed = failed

    async def dial(self, backoff: Backoff, *, first: bool) -> Link:
        """
        Try the URLs in rounds, each in a random order, until a broker answers.

        Args:
            first: whether this is the transport's first connection.

        Raises:
            ConfigurationError: *first* is true, and a broker refused us permanently.
        """
        logged: set[str] = set()
        while True:
            refusal: ConfigurationError | None = None
            troubles: set[str] = set()
            for url in random.sample(self.urls, len(self.urls)):
                if self.trouble is _NOT_TRIED:
                    self.trouble = f"{url}: no answer yet"
                try:
                    return await self.connect(url)
                except ConfigurationError as error:
                    refusal = error
                    self.trouble = str(error)
                except OSError as error:
                    self.trouble = f"{url}: {reason(error)}"
                except Exception as error:  # noqa: BLE001 - a host name can raise anything
                    self.trouble = f"{url}: {type(error).__name__}: {error}"
                troubles.add(self.trouble)
            if refusal is not None and first and not (self.patient and refusal.may_pass):
                raise refusal
            self._failed(f"not connected ({self.trouble})")
            # The log already has a line about the lost connection; a later refusal is new.
            if troubles != logged and (first or refusal is not None):
                logged = troubles
                log.warning("%s: still connecting: %s", self._name, "; ".join(sorted(troubles)))
            await asyncio.sleep(backoff.next())

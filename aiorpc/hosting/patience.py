"""
Waits at the start of a service while the broker refuses what an operator or another connection may
permit later: a permission, a queue, a limit. Awaits only the attempts and the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..exceptions import ConfigurationError
from ..logs import logger
from ..transports.backoff import Backoff

__all__ = ["Patience"]

log = logger("aiorpc.hosting")


class Patience:
    """
    Repeats attempts of one service.

    Attributes:
        patient: whether to repeat them. False: the first refusal is final.
        trouble: the refusal that the service waits for now; empty if it does not wait.
    """

    def __init__(self, service_name: str) -> None:
        self.patient = False
        self.trouble = ""
        self._service_name = service_name

    async def wait_out(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """
        Await *attempt* until it succeeds, with growing pauses. Log each new refusal.

        Raises:
            ConfigurationError: the refusal cannot pass by itself.
        """
        backoff = Backoff()
        try:
            while True:
                try:
                    await attempt()
                    return
                except ConfigurationError as error:
                    if not (self.patient and error.may_pass):
                        raise
                    if self.trouble != str(error):
                        self.trouble = str(error)
                        text = "%s is not ready: %s; trying again"
                        log.warning(text, self._service_name, self.trouble)
                await asyncio.sleep(backoff.next())
        finally:
            self.trouble = ""

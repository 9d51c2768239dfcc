"""
``Retry``: how often, and when, an entrypoint runs a failed message again. A value; no I/O.
"""

from __future__ import annotations

import math

from ..exceptions import ConfigurationError
from ..wire.message import MAX_EXPIRATION

__all__ = ["Retry"]

#: The most seconds of a delay. RabbitMQ takes no greater ``x-message-ttl``.
LONGEST = MAX_EXPIRATION // 1000


class Retry:
    """
    How an entrypoint runs a message again whose method failed. After the last attempt it parks the
    message. ``Retry()`` means three further attempts, after 1, 10 and 60 seconds.

    Args:
        immediate: the number of further attempts at once.
        delays: the seconds before each attempt that follows. Delayed messages wait in a queue of
            the broker: they survive a restart, and occupy no worker.

    Raises:
        ConfigurationError: *immediate* or a delay is not such a number.
    """

    __slots__ = ("delays", "immediate")

    def __init__(
        self, immediate: int = 0, delays: tuple[float, ...] | list[float] = (1, 10, 60)
    ) -> None:
        if type(immediate) is not int or immediate < 0:
            raise ConfigurationError(
                f"immediate of Retry is the number of attempts at once, got {immediate!r}: write "
                "Retry(immediate=2)"
            )
        if not isinstance(delays, (tuple, list)):
            raise ConfigurationError(
                f"delays of Retry are seconds, got {delays!r}: write Retry(delays=(1, 10, 60))"
            )
        for delay in delays:
            number = isinstance(delay, (int, float)) and not isinstance(delay, bool)
            if not number or not 0.001 <= delay <= LONGEST:
                raise ConfigurationError(
                    f"a delay of Retry is a number of seconds from 0.001 to {LONGEST}, got "
                    f"{delay!r}: write Retry(delays=(1, 10, 60))"
                )
        self.immediate = immediate
        #: Milliseconds, as the names of the delay queues have them.
        self.delays = tuple(math.ceil(delay * 1000) for delay in delays)

    def __repr__(self) -> str:
        seconds = ", ".join(f"{delay / 1000:g}" for delay in self.delays)
        return f"Retry(immediate={self.immediate}, delays=[{seconds}])"

    @property
    def attempts(self) -> int:
        """The number of attempts in all."""
        return 1 + self.immediate + len(self.delays)

"""
Looks at services again and again: asks for their statistics, and the broker about their queues.
Awaits the transport; no other I/O.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from ...transports.base import State, Transport
from .asking import Asker
from .live_view import Depths, View, view_of
from .shapes import DiscoveryAnswer, Question, Stats

__all__ = ["MISSES", "Watch"]

#: Seconds that the broker may take to describe one queue, and all queues of one look.
LOOK, LOOKS = 0.5, 2.0
#: Looks for which an instance that answers no more is shown.
MISSES = 5


class Watch:
    """Asks for the statistics of *services* again and again; of all services if there are none."""

    def __init__(
        self, transport: Transport, asker: Asker, services: Sequence[str], wait: float
    ) -> None:
        self._transport = transport
        self._asker = asker
        self._services = frozenset(services)
        self._wait = wait
        #: What answered the last look, and the instances that answered an earlier one only.
        self.answers: list[DiscoveryAnswer] = []
        self.missing: list[Stats] = []
        #: The last answer of each instance.
        self._before: dict[str, Stats] = {}
        #: The number of looks in a row that each instance has not answered.
        self._missed: Counter[str] = Counter()
        #: Exclusive queues, which the broker describes only to their owners.
        self._untold: set[str] = set()

    async def look(self) -> View:
        """
        Ask, and return the figures since the last look.

        Raises:
            ConnectionLost: the question could not be sent.
        """
        (only,) = self._services if len(self._services) == 1 else ("",)
        answers = await self._asker.ask(Question.STATS, self._wait, only)
        answers = [each for each in answers if not self._services or each.name in self._services]
        depths = await self._depths(_queues_of(answers))
        view = view_of(answers, self._before, depths, self._transport.url)
        self.answers = answers
        self.missing = self._remember(
            {each.id: each for each in answers if isinstance(each, Stats)}
        )
        view.silent = sorted(f"{each.name} in {each.process}" for each in self.missing)
        return view

    def _remember(self, now: dict[str, Stats]) -> list[Stats]:
        """Remember the answers *now*, and return the instances that have not answered."""
        self._before.update(now)
        self._missed.update(self._before.keys() - now.keys())
        for each in [each for each in self._before if each in now or self._missed[each] > MISSES]:
            del self._missed[each]
            if each not in now:
                del self._before[each]
        return [self._before[each] for each in self._missed]

    async def _depths(self, queues: Sequence[str]) -> Depths:
        """
        Look at *queues*. They have consumers, because their services have answered just now: a look
        renews ``x-expires``, and matters only to a queue without consumers.
        """
        depths: Depths = {}
        until = time.monotonic() + LOOKS
        for queue in queues:
            began = time.monotonic()
            if queue in self._untold or began >= until:
                continue
            state = await self._transport.inspect(queue, LOOK)
            if state is not None and state.exists and not state.trouble:
                depths[queue] = state.messages, state.consumers
            elif self._transport.state is State.CONNECTING:
                break
            elif state is None and time.monotonic() - began < LOOK:
                # The refusal closes a channel: do not repeat it.
                self._untold.add(queue)
        return depths


def _queues_of(answers: Sequence[DiscoveryAnswer]) -> list[str]:
    stats = [each for each in answers if isinstance(each, Stats)]
    return sorted({each.queue for answer in stats for each in answer.endpoints if each.queue})

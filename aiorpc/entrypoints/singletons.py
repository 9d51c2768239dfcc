"""
Fires each tick in one instance of a service: ``singleton=True`` of ``@timer`` and ``@cron``. Awaits
the clock, the broker and the end of each run.

The right to fire is a claim at the broker (:mod:`..transports.claims`): an exclusive queue of one
connection. The last tick is one message in a durable queue. The holder of the right publishes each
tick there, on the connection that holds the right, and runs the method after the broker's confirm.
A new holder reads the last tick first, and fires only later ticks.

So no tick is fired twice. A holder that was paused, or whose connection the broker gave up, gets no
confirm: it cannot publish on another connection. If the broker has confirmed the tick, a new holder
reads it. A tick whose holder died between the confirm and the end of the run is not fired again.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from ..exceptions import AioRpcError, ConnectionLost
from ..extensions import Entrypoint, Host
from ..logs import logger
from ..transports.base import Claim, State
from ..transports.claims import Got
from ..wire.message import Message
from ..wire.names import singleton_right, singleton_ticks
from ..wire.queues import of_same_type
from .ticks import MANY, Schedule, due, start

__all__ = ["Singleton"]

log = logger("aiorpc.singleton")

#: Seconds between two attempts to claim the right, at most.
ASK_EVERY = 2.0
#: Messages of the queue of the last tick that are read at most. There is one, or few after a crash.
_MOST_RECORDS = 100
#: Seconds between a recorded tick and now, at most: 50 years.
_LONGEST = 50 * 366 * 86400.0


class Singleton:
    """
    Fires the ticks of one entrypoint, in one of the containers of a service at a time.

    Args:
        schedule: the same in all containers.
        kind: the kind of the calls.
        catch_up: fire once for the ticks that nobody could fire. Otherwise skip them.
        eager: fire at once if no container has fired any tick yet.
    """

    def __init__(
        self,
        host: Host,
        entrypoint: Entrypoint,
        schedule: Schedule,
        *,
        kind: str,
        catch_up: bool = False,
        eager: bool = False,
    ) -> None:
        self._host = host
        self._entrypoint = entrypoint
        self._schedule = schedule
        self._kind = kind
        self._catch_up = catch_up
        self._eager = eager
        self._name = f"{host.service_name}.{entrypoint.method_name}"
        self._pause = min(ASK_EVERY, (host.settings.heartbeat or math.inf) / 2)
        self._claim: Claim | None = None
        #: The last tick that was fired or skipped.
        self._last = 0.0
        #: This container could have fired all ticks since then; ``None`` while it has no answer.
        self._since: float | None = None
        self._told = ""

    async def listen(self) -> None:
        """
        Declare the queue of the last tick, and begin to fire.

        Raises:
            ConfigurationError: the broker refuses the queue.
        """
        host, name = self._host, await self._unique_name()
        self._right, ticks = singleton_right(name), singleton_ticks(name)
        self._record = of_same_type(ticks, ticks.name, host.settings.queue_options)
        await host.transport.declare(queues=[self._record])
        host.spawn(self._live(), name=f"{self._kind} {self._entrypoint.method_name}")

    async def _unique_name(self) -> str:
        """Return a name that no other entrypoint of the method has."""
        name = first = f"{self._kind}-{self._name}"
        number = 1
        while await self._host.share((Singleton, name), self._lifetime) is not self:
            number += 1
            name = f"{first}-{number}"
        return name

    @asynccontextmanager
    async def _lifetime(self) -> AsyncGenerator[Singleton]:
        try:
            yield self
        finally:  # after the last run
            await self._release()

    async def _live(self) -> None:
        while True:
            claim = await self._hold()
            try:
                while claim.held:
                    await self._fire_due(claim)
            except AioRpcError as error:
                self._tell(f"cannot fire a tick: {error}", error)
            log.info(
                "%s: this process does not hold the right to run the method any more", self._name
            )
            await self._release()

    # Holding the right

    async def _hold(self) -> Claim:
        """Return when this connection holds the right, and the last tick was read."""
        self._since = None
        while True:
            try:
                if self._host.transport.state is not State.CONNECTED:
                    self._since = None
                claim = await self._host.transport.claim(self._right)
                self._since = self._since or time.time()
                if claim is not None:
                    self._claim = claim
                    await self._recall(claim)
                    self._told = ""
                    return claim
            except AioRpcError as error:
                self._since = None
                self._tell(f"cannot hold the right to run the method: {error}", error)
                await self._release()
            await asyncio.sleep(self._pause)

    async def _recall(self, claim: Claim) -> None:
        """Read the last tick. Its message is replaced by a copy, whose deliveries count from 0."""
        await self._host.transport.declare(queues=[self._record])  # it may be deleted
        queue, taken = self._record.name, list[Got]()
        while len(taken) < _MOST_RECORDS and (got := await claim.get(queue)) is not None:
            taken.append(got)
        now = time.time()
        ticks = [tick for got in taken if (tick := self._read(got.body, now)) is not None]
        if not ticks and self._eager:
            self._since = self._schedule.until(now)
            last = math.nextafter(self._since, 0)
        else:
            last = max(ticks, default=now)
            await claim.put(queue, _record_of(last))
        for got in taken:
            got.ack()
        self._last = last
        known = _text(last) if ticks else "none"
        log.info(
            "%s: this process holds the right to run the method; last run: %s", self._name, known
        )
        if last > now + self._host.settings.clock_tolerance:
            log.warning(
                "%s: the last tick is %.0f s ahead of the clock of this host, and none is fired "
                "before that. Compare the clocks of the hosts; to forget the tick, delete queue %s",
                self._name,
                last - now,
                queue,
            )

    def _read(self, body: bytes, now: float) -> float | None:
        """Return the tick in a message of the queue of the last tick."""
        try:
            tick = float(json.loads(body)["tick"])
            if abs(tick - now) < _LONGEST:
                return tick
            reason = f"{tick:g} is no likely time"
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            reason = repr(error)
        queue = self._record.name
        log.warning("%s: a message of queue %s is no tick: %s", self._name, queue, reason)
        return None

    async def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            await claim.release()

    def _tell(self, text: str, error: AioRpcError) -> None:
        """Log *text* once. The transport logs a lost connection itself."""
        if isinstance(error, ConnectionLost):
            log.debug("%s: %s", self._name, text)
        elif text != self._told:
            self._told = text
            log.error("%s: %s", self._name, text)

    # Firing

    async def _fire_due(self, claim: Claim) -> None:
        """Fire the last of the due ticks. Without a due tick, wait for it, but not long."""
        now = time.time()
        found = due(self._schedule, self._last, now)
        if found is None:
            seconds = self._schedule.after(max(self._last, now)) - now
            await asyncio.sleep(min(seconds, self._pause))
            return
        assert self._since is not None
        fires = self._catch_up or found.tick >= self._since
        if found.number > fires:
            log.warning(
                "%s: %s%d tick(s) skipped until %s, because no process could fire them in time",
                self._name,
                "at least " if found.number == MANY else "",
                found.number - fires,
                _text(found.tick),
            )
        self._last = found.tick
        if fires:
            await self._fire(claim, found.tick)

    async def _fire(self, claim: Claim, tick: float) -> None:
        await claim.confirm()
        recording = asyncio.ensure_future(claim.put(self._record.name, _record_of(tick)))
        try:
            await asyncio.shield(recording)
        except asyncio.CancelledError:
            # The container stops. A recorded tick must run, because nobody else fires it.
            await asyncio.wait([recording])
            if recording.exception() is None:
                start(self._host, self._entrypoint, self._kind)
            raise
        await start(self._host, self._entrypoint, self._kind).wait()


def _record_of(tick: float) -> Message:
    """Return the message that records *tick*. Operators may read its time and its process."""
    record = {"tick": tick, "time": _text(tick), "by": f"{socket.gethostname()}:{os.getpid()}"}
    return Message(body=json.dumps(record).encode())


def _text(tick: float) -> str:
    return datetime.fromtimestamp(tick, UTC).isoformat()

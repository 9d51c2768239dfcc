"""
``@cron``. Awaits the clock and the end of each run. Needs the extra ``cron``, which is imported
where a cron is declared.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, NamedTuple

from ..declarations import decorator_of
from ..exceptions import ConfigurationError
from ..extensions import Entrypoint, Host
from .arguments import require_call
from .singletons import Singleton
from .ticks import due, start, wait_until

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = ["Cron", "cron"]


@dataclass(eq=False, repr=False)
class Cron(Entrypoint):
    """
    Starts a method at the times of a cron expression, but only one run at a time. If runs were due
    while a run took place, one more starts at its end. An error is logged and does not stop the
    cron.

    Each instance of the service has its own cron. With *singleton*, one instance starts each run;
    another one takes over when it ends.

    Args:
        expression: minute, hour, day of the month, month and day of the week, as in Debian's cron.
            With six fields, the first is the second.
        tz: the time zone of *expression*, such as ``"Europe/Berlin"``.
        catch_up: with *singleton*, start one run for the times at which no instance could start
            one. Otherwise, these times are skipped, and a log line has their number.
    """

    unprompted = True

    expression: str
    tz: str = "UTC"
    singleton: bool = field(default=False, kw_only=True)
    catch_up: bool = field(default=False, kw_only=True)
    _times: Times = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.catch_up and not self.singleton:
            raise ConfigurationError(
                "catch_up of @cron needs singleton=True: otherwise nothing remembers the last run"
            )
        self._times = times_of(self.expression, self.tz)

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        require_call(self, host)
        if self.singleton:
            await Singleton(host, self, self._times, kind="cron", catch_up=self.catch_up).listen()
        else:
            host.spawn(self._tick(host), name=f"cron {self.method_name}")
        yield

    async def _tick(self, host: Host) -> None:
        last = time.time()
        while True:
            await wait_until(self._times.after(last))
            if found := due(self._times, last, time.time()):
                last = found.tick
                await start(host, self, "cron").wait()


class Times(NamedTuple):
    """The times of a cron expression in a zone; see :class:`.ticks.Schedule`."""

    expression: str
    zone: tzinfo

    def after(self, moment: float) -> float:
        times = self._iterator(datetime.fromtimestamp(moment, self.zone))
        while True:
            # In the hour that a change of the clocks repeats, cronsim may return an earlier time.
            if (tick := next(times).timestamp()) > moment:
                return tick

    def until(self, moment: float) -> float:
        # cronsim returns the second that it begins in, if it begins later in this second.
        begin = datetime.fromtimestamp(int(moment), self.zone).replace(microsecond=1)
        return next(self._iterator(begin, reverse=True)).timestamp()

    def _iterator(self, begin: datetime, *, reverse: bool = False) -> CronSim:
        from cronsim import CronSim

        return CronSim(self.expression, begin, reverse=reverse)


def times_of(expression: str, zone: str) -> Times:
    """
    Return the times of *expression* in the time zone *zone*.

    Raises:
        ConfigurationError: there is no such zone, *expression* is wrong, or it has no times.
        ModuleNotFoundError: cronsim is not installed.
    """
    try:
        from cronsim import CronSimError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "@cron needs cronsim, which is not installed: pip install 'aiorpc-amqp[cron]'",
            name=error.name,
        ) from None
    if not isinstance(expression, str):
        raise ConfigurationError(
            f"the expression of @cron is a str, not a {type(expression).__name__}: write "
            '@cron("*/5 * * * *")'
        )
    times = Times(expression, _zone(zone))
    try:
        times.after(time.time())
    except StopIteration:
        raise ConfigurationError(
            f"the expression {expression!r} of @cron has no time in the next 50 years: check the "
            "day and the month"
        ) from None
    except CronSimError as error:
        raise ConfigurationError(
            f"the expression {expression!r} of @cron is wrong: {error}. It has five fields: "
            'minute, hour, day, month, weekday, such as "30 8 * * MON-FRI"; or six: a second first'
        ) from None
    return times


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, TypeError, OSError, KeyError) as error:  # no such zone is a KeyError
        hint = ""
        if isinstance(error, KeyError):
            from zoneinfo import available_timezones

            from ..exceptions import likely

            zones = available_timezones()
            hint = likely(name, zones) if zones else ": pip install tzdata"
        raise ConfigurationError(
            f'@cron does not know the time zone {name!r}{hint}: use a name such as "Europe/Berlin"'
        ) from None


cron = decorator_of(Cron)

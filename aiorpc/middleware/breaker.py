"""
``breaker``: the caller sends no calls to a service that does not answer. Awaits only the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any

from ..call import Call, Handler
from ..checks import COUNT, SECONDS, STRINGS, check
from ..exceptions import (
    CircuitOpen,
    ConnectionLost,
    Overloaded,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
    UnserializableValueError,
)
from ..logs import logger

__all__ = ["breaker"]

log = logger("aiorpc.middleware")

_KINDS = {
    "failures": COUNT,
    "open_for": SECONDS,
    "services": STRINGS._replace(text="a list of names of services, which may have * in them"),
}
#: The service does not answer.
_FAILURES = (RpcTimeout, UnknownService, ServiceUnavailable, Overloaded)
#: These errors say nothing about the service: they are the broker's, or the caller's.
_OTHERS = (ConnectionLost, UnserializableValueError, CircuitOpen)
#: Services that are remembered at most.
_MOST = 1000


class breaker:  # noqa: N801 - used like a function
    """
    Fails calls at once while their service does not answer. Works at callers only; elsewhere it
    does nothing.

    After *failures* calls of a service in a row have failed, the circuit of the service opens: for
    *open_for* seconds, each call raises ``CircuitOpen`` and is not sent. Then one call is sent, as
    a probe, and the others still raise ``CircuitOpen``. If the service answers the probe, the
    circuit closes; otherwise it stays open for *open_for* seconds more.

    A failure is ``RpcTimeout``, ``UnknownService``, ``ServiceUnavailable`` or ``Overloaded``. An
    error that the method raises is an answer. A lost connection to the broker does not count.

    Args:
        failures: failed calls in a row.
        open_for: seconds.
        services: names or patterns of the services that have a circuit. Default: all.
    """

    def __init__(
        self, *, failures: int = 5, open_for: float = 30.0, services: Sequence[str] = ("*",)
    ) -> None:
        given = {"failures": failures, "open_for": open_for, "services": services}
        check("breaker()", given, _KINDS)
        self._failures = failures
        self._open_for = open_for
        self._services = tuple(services)
        self._circuits: dict[str, _Circuit | None] = {}

    async def __call__(self, call: Call, handler: Handler) -> Any:
        """
        Make *call*.

        Raises:
            CircuitOpen: the service does not answer; the call was not sent.
        """
        circuit = self._circuit(call.service) if call.side == "client" else None
        if circuit is None:
            return await handler(call)
        period = circuit.enter(call)
        try:
            result = await handler(call)
        except _OTHERS:
            circuit.forget(period)
            raise
        except _FAILURES as error:
            circuit.failed(period, error)
            raise
        except Exception:
            circuit.answered(period)
            raise
        except BaseException:  # cancelled
            circuit.forget(period)
            raise
        circuit.answered(period)
        return result

    def _circuit(self, service: str) -> _Circuit | None:
        if service in self._circuits:
            return self._circuits[service]
        if len(self._circuits) >= _MOST:  # a gateway's clients may choose names
            self._circuits.clear()
        circuit = None
        if any(fnmatchcase(service, pattern) for pattern in self._services):
            circuit = _Circuit(service, self._failures, self._open_for)
        self._circuits[service] = circuit
        return circuit


class _Circuit:
    """
    The state of one service. A call belongs to the period in which it was sent; the end of a call
    of an earlier period changes nothing.
    """

    def __init__(self, service: str, most: int, open_for: float) -> None:
        self._service = service
        self._most = most
        self._open_for = open_for
        self._failures = 0
        self._period = 0
        #: When a probe may be sent, in ``time.monotonic()``; None: the circuit is closed.
        self._opens_until: float | None = None
        self._probing = False
        self._last = ""

    def enter(self, call: Call) -> int:
        """
        Return the period of *call*.

        Raises:
            CircuitOpen: the circuit is open.
        """
        if self._opens_until is None:
            return self._period
        left = self._opens_until - monotonic()
        if self._probing or left > 0:
            when = f"another call is sent in {left:.1f} s"
            if self._probing:
                when = "a call is on its way, to see whether it answers again"
            raise CircuitOpen(
                f"{call} was not sent: {self._service} does not answer. {self._failures} calls in "
                f"a row have failed, the last with {self._last}; {when}",
                retry_after=max(round(left, 3), 0.0),
            )
        self._probing = True
        return self._period

    def answered(self, period: int) -> None:
        """The service answered a call."""
        if period != self._period:
            return
        if self._opens_until is not None:
            log.info("%s answers again: its calls are sent", self._service)
            self._begin_period(None)
        self._failures = 0

    def failed(self, period: int, error: Exception) -> None:
        """The service did not answer a call."""
        if period != self._period:
            return
        self._failures += 1
        if self._opens_until is None and self._failures < self._most:
            return
        self._last = f"{type(error).__name__}: {error}"
        if self._opens_until is None:
            text = "%s does not answer: its calls fail at once for %g s; the last error: %s"
            log.warning(text, self._service, self._open_for, self._last)
        self._begin_period(monotonic() + self._open_for)

    def forget(self, period: int) -> None:
        """A call ended without news of the service: the next call is the probe."""
        if period == self._period:
            self._probing = False

    def _begin_period(self, opens_until: float | None) -> None:
        self._period += 1
        self._probing = False
        self._opens_until = opens_until

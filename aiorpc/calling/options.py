"""
How a call is made: what its caller may choose, and what follows from that for all calls of one
method. Values only; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..context import EMPTY

__all__ = ["DEFAULTS", "UNSET", "CallOptions", "Route", "checked_timeout"]

UNSET: Final = msgspec.UNSET


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    How one call is made. ``UNSET`` is the client's own default.

    Attributes:
        timeout: seconds until the caller stops waiting; ``None`` for never, explicitly.
        headers: further AMQP headers, as they are to stand on the wire.
        context_data: laid over the context data that the call carries anyway.
        persistent: whether the request survives a restart of the broker.
        confirm: whether the broker confirms the request. Unconfirmed ones are not sent again.
        resend: whether a request that was not confirmed when the connection broke is sent again;
            ``False`` fails the call with ``ConnectionLost`` instead.
        fail_fast: raise ``ServiceUnavailable`` at once when nobody consumes the service's queue.
    """

    timeout: float | None | msgspec.UnsetType = UNSET
    headers: Mapping[str, Any] = EMPTY
    context_data: Mapping[str, Any] = EMPTY
    persistent: bool | msgspec.UnsetType = UNSET
    confirm: bool | msgspec.UnsetType = UNSET
    resend: bool = True
    fail_fast: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not UNSET:
            checked_timeout(self.timeout)


def checked_timeout(timeout: float | None) -> float | None:
    """
    *timeout* itself.

    Raises:
        ValueError: it is no number of seconds, and not ``None``.
    """
    if timeout is None or (type(timeout) in (int, float) and timeout == timeout):
        return timeout
    raise ValueError(
        f"timeout must be a number of seconds, or None for no limit, not {timeout!r} "
        f"({type(timeout).__name__})"
    )


DEFAULTS = CallOptions()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What all calls of one method with the same options have in common, worked out once."""

    service: str
    method: str
    routing_key: str
    options: CallOptions
    #: Seconds, or ``None`` for no limit.
    timeout: float | None
    persistent: bool
    confirm: bool
    #: Whether nothing has to be looked at, or waited for, before the request may leave.
    direct: bool

"""
The options of a call, and the values that all calls of one method share. Values only; nothing here
awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

import msgspec

from ..context import EMPTY

__all__ = ["DEFAULTS", "UNSET", "CallOptions", "Options", "Route", "checked_timeout"]

UNSET: Final = msgspec.UNSET


class Options(TypedDict, total=False):
    """The keywords of ``with_options``, for type checkers; see :class:`CallOptions`."""

    timeout: float | None | msgspec.UnsetType
    headers: Mapping[str, Any] | msgspec.UnsetType
    context_data: Mapping[str, Any] | msgspec.UnsetType
    persistent: bool | msgspec.UnsetType
    confirm: bool | msgspec.UnsetType
    resend: bool | msgspec.UnsetType
    fail_fast: bool | msgspec.UnsetType


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    The options of a call. ``UNSET`` means the client's default.

    Attributes:
        timeout: seconds that the caller waits for the answer; ``None`` for no limit.
        headers: further AMQP headers, sent unchanged.
        context_data: replaces or extends the context data that the call inherits.
        persistent: whether the request survives a restart of the broker.
        confirm: whether the broker confirms the request. With ``False`` the client never re-sends.
        resend: whether the client re-sends a request if the connection is lost before the confirm.
            With ``False`` the call fails with ``ConnectionLost`` instead.
        fail_fast: raise ``ServiceUnavailable`` at once if the service's queue has no consumers.
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

    def replaced(self, changes: Options) -> CallOptions:
        """
        Return a copy with *changes*. A change to ``UNSET`` has no effect.

        Raises:
            TypeError: *changes* names an option that does not exist.
            ValueError: the timeout is neither a number of seconds nor ``None``.
        """
        given = {name: value for name, value in changes.items() if value is not UNSET}
        return msgspec.structs.replace(self, **given)


def checked_timeout(timeout: float | None) -> float | None:
    """
    Return *timeout* unchanged.

    Raises:
        ValueError: *timeout* is neither a number of seconds nor ``None``.
    """
    if timeout is None or (type(timeout) in (int, float) and timeout == timeout):
        return timeout
    raise ValueError(
        f"timeout must be a number of seconds, or None for no limit, not {timeout!r} "
        f"({type(timeout).__name__})"
    )


DEFAULTS = CallOptions()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Values that all calls of one method with the same options share. Computed once."""

    service: str
    method: str
    routing_key: str
    options: CallOptions
    #: Seconds to wait for the answer; ``None`` for no limit.
    timeout: float | None
    persistent: bool
    confirm: bool

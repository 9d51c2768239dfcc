"""
Calls a method for the page's "try it". Opens a connection of its own at the first call.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import perf_counter
from typing import Any

import msgspec

from ..calling.proxies import ClusterProxy, MethodProxy
from ..calling.standalone import ClusterRpcProxy
from ..config import Settings
from ..exceptions import AioRpcError, BadArguments, RemoteError
from ..http.responses import json_of

__all__ = ["Tried", "Trying", "Wish"]

#: Seconds until the connection must stand.
CONNECT_TIMEOUT = 5.0
#: Seconds that a call may take at most, and by default.
LONGEST, USUAL = 300.0, 30.0
#: Items of a stream that are shown.
MOST_ITEMS = 100
#: Bytes of a result that are shown.
MOST_BYTES = 1 << 20


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The call that the page wants. ``timeout`` is in seconds."""

    service: str
    method: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    stream: bool = False
    timeout: float = USUAL

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= LONGEST:
            most = f"{LONGEST:g} s"
            raise ValueError(
                f"timeout is {self.timeout:g}, and must be more than 0 and at most {most}"
            )


class Tried(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    How the call ended.

    Attributes:
        milliseconds: from the request to the answer.
        result: what the method returned, or the items of its stream, as JSON.
        more: whether the stream has more items, or the result more bytes, than are shown.
        error, text: the type of the error, and what it says.
        remote: whether the method raised it.
        messages: of wrong arguments, by argument and field.
    """

    milliseconds: float
    result: msgspec.Raw = msgspec.Raw(b"null")
    more: bool = False
    error: str = ""
    text: str = ""
    remote: bool = False
    messages: Any = None


class Trying:
    """Makes calls with the configuration of the console."""

    def __init__(self, settings: Settings) -> None:
        self._cluster = ClusterRpcProxy(settings, timeout=CONNECT_TIMEOUT)
        self._started: ClusterProxy | None = None
        self._starting = asyncio.Lock()

    async def aclose(self) -> None:
        """Fail the calls, and disconnect. Bounded."""
        await self._cluster.aclose()

    async def call(self, wish: Wish) -> Tried:
        """Make the call, and return how it ended. A cancelled task cancels the call."""
        began = perf_counter()
        try:
            method = await self._method(wish)
            if wish.stream:
                value, more = await _items(method, wish)
            else:
                value, more = await method(*wish.args, **wish.kwargs), False
            return _shown(value, more, _since(began))
        except RemoteError as error:
            return Tried(
                milliseconds=_since(began), error=error.exc_type, text=error.value, remote=True
            )
        except AioRpcError as error:
            messages = error.messages if isinstance(error, BadArguments) else None
            return _failed(error, _since(began), messages)
        except Exception as error:  # noqa: BLE001 - a registered error may be of any class
            return _failed(error, _since(began), None)

    async def _method(self, wish: Wish) -> MethodProxy:
        async with self._starting:
            if self._started is None:
                self._started = await self._cluster.start()
        method = self._started[wish.service][wish.method]
        return method.with_options(timeout=wish.timeout)


async def _items(method: MethodProxy, wish: Wish) -> tuple[list[Any], bool]:
    items: list[Any] = []
    async with aclosing(method.stream(*wish.args, **wish.kwargs)) as stream:
        async for item in stream:
            if len(items) == MOST_ITEMS:
                return items, True
            items.append(item)
    return items, False


def _shown(value: Any, more: bool, milliseconds: float) -> Tried:
    """Return *value* as JSON; as a text that is cut, if it is too long."""
    body = json_of(value)
    if len(body) > MOST_BYTES:
        text = body[:MOST_BYTES].decode(errors="ignore")
        body, more = msgspec.json.encode(text), True
    return Tried(milliseconds=milliseconds, result=msgspec.Raw(body), more=more)


def _failed(error: Exception, milliseconds: float, messages: Any) -> Tried:
    return Tried(
        milliseconds=milliseconds,
        error=type(error).__name__,
        text=str(error),
        messages=messages,
    )


def _since(began: float) -> float:
    return round((perf_counter() - began) * 1000, 3)

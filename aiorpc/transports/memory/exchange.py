"""
An exchange of the broker in this process: finds the queues for a routing key. Nothing here awaits.
"""

from __future__ import annotations

from typing import Any, Final

from ...wire.message import Exchange
from ..codec.encoder import short_string
from .queue import MemoryQueue

__all__ = ["MemoryExchange", "exchange_flags"]

#: Routing keys whose queues an exchange caches. A full cache is emptied.
MAX_ROUTES: Final = 4096


class MemoryExchange:
    """An exchange with its bindings to queues."""

    __slots__ = ("_bindings", "_routes", "auto_delete", "flags", "name", "type")

    def __init__(self, exchange: Exchange) -> None:
        self.name = exchange.name
        self.type = exchange.type
        self.auto_delete = exchange.auto_delete
        self.flags = exchange_flags(exchange)
        self._bindings: dict[tuple[str, str], MemoryQueue] = {}
        #: Results of ``route`` since the last change of bindings (ADR 6).
        self._routes: dict[str, tuple[MemoryQueue, ...]] = {}

    @property
    def bound(self) -> bool:
        """Whether any queue is bound to the exchange."""
        return bool(self._bindings)

    def bind(self, queue: MemoryQueue, key: str) -> None:
        """Route messages with a routing key that matches *key* to *queue*."""
        self._bindings[queue.name, key] = queue
        self._routes.clear()
        queue.bound_to.add(self.name)

    def unbind(self, queue: MemoryQueue) -> None:
        """Remove all bindings of *queue*."""
        self._bindings = {at: each for at, each in self._bindings.items() if each is not queue}
        self._routes.clear()

    def route(self, routing_key: str) -> tuple[MemoryQueue, ...]:
        """Return the queues for *routing_key*, each once."""
        queues = self._routes.get(routing_key)
        if queues is None:
            short_string(routing_key, "routing key")
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            queues = self._routes[routing_key] = self._find(routing_key)
        return queues

    def _find(self, routing_key: str) -> tuple[MemoryQueue, ...]:
        bindings = self._bindings.items()
        if self.type == "topic":
            words = _words(routing_key)
            found = [queue for (_, key), queue in bindings if _matches(_words(key), words)]
        elif self.type == "direct":
            found = [queue for (_, key), queue in bindings if key == routing_key]
        else:
            # Fanout; or a headers exchange, where a binding without arguments matches all messages.
            found = [queue for _, queue in bindings]
        return tuple(dict.fromkeys(found))


def exchange_flags(exchange: Exchange) -> dict[str, Any]:
    """Return the flags that must be equal when an exchange is declared again."""
    return {
        "type": exchange.type,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        **exchange.arguments,
    }


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic matches: ``*`` stands for one word, ``#`` for any number of words."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])

"""
What the clients of a run do: a list of operations for each, made by the seed before the run begins.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ENDLESS", "Operation", "operations"]

#: Seconds in which a stream without a deadline ends.
ENDLESS = 30.0


@dataclass
class Operation:
    """
    One call of a client.

    Attributes:
        pause: seconds before it.
        cancel: seconds after which the caller cancels it.
        reply: whether it is made by ``call_async``.
        take: the number of items of a stream after which its program leaves the loop.
    """

    service: str
    method: str
    script: dict[str, Any]
    timeout: float | None
    pause: float
    cancel: float | None = None
    reply: bool = False
    take: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def operations(seed: object, client: str, count: int) -> list[Operation]:
    """Return the *count* operations of *client*."""
    draw = random.Random(f"operations {seed} {client}").random
    return [_operation(draw) for _ in range(count)]


def _operation(draw: Callable[[], float]) -> Operation:
    if draw() < 0.06:
        return _stream(draw)
    service = "shop" if draw() < 0.75 else "store"
    method = "once" if draw() < 0.3 else "work"
    script: dict[str, Any] = {}
    kind = draw()
    if kind < 0.35:
        pass
    elif kind < 0.6:
        script["sleep"] = draw() ** 4 * 2.0
    elif kind < 0.7:
        script["fail"] = True
    elif kind < 0.72:
        script["unserializable"] = True
    elif kind < 0.8 and service == "shop":
        script["children"] = [_child(draw) for _ in range(1 + int(draw() * 2))]
    elif kind < 0.9 and service == "shop":
        script["event"] = True
        if draw() < 0.2:
            script["fail"] = True
    elif kind < 0.94:
        script |= {"sleep": 0.2 + draw(), "stubborn": draw() * 0.3}
    elif kind < 0.9415:
        script["kills"] = 1 + int(draw() * 8)
    elif kind > 0.97:
        service, method = (
            ("shop", "typed"),
            ("shop", "missing"),
            ("nobody", "nobody"),
            ("shop", "unencodable"),
        )[int(draw() * 4)]
    chances = (
        ("resend", False, 0.2),
        ("confirm", False, 0.08),
        ("persistent", False, 0.05),
        ("fail_fast", True, 0.05),
    )
    options = {name: value for name, value, chance in chances if draw() < chance}
    timeout = (0.05, 0.3, 1.0, 3.0, 20.0, 20.0, 20.0)[int(draw() * 7)]
    cancel = None
    if draw() < 0.12:
        cancel = draw() ** 3 * 0.5
    return Operation(
        *(service, method, script, timeout, draw() ** 4 * 1.5, cancel, draw() < 0.1),
        options=options,
    )


def _stream(draw: Callable[[], float]) -> Operation:
    """Return a call of a stream: few or many items, at once or slowly, perhaps left early."""
    script: dict[str, Any] = {
        "items": int(draw() ** 2 * 80),
        "every": 0.0 if draw() < 0.5 else 0.02 * draw(),
        "slow": 0.0 if draw() < 0.6 else 0.02 * draw(),
    }
    if draw() < 0.3:
        script |= {"pause_at": int(draw() * 10), "pause": draw() * 2.0}
    if draw() < 0.15:
        script["fail"] = True
    options: dict[str, Any] = {}
    if draw() < 0.25:
        options["idle_timeout"] = 0.2 + draw() * 2.0
    timeout = (0.3, 2.0, 20.0, 20.0, None)[int(draw() * 5)]
    cancel = draw() * 0.5 if draw() < 0.1 else None
    if timeout is None and cancel is None:
        cancel = ENDLESS
    return Operation(
        "shop",
        "listed",
        script,
        timeout,
        draw() ** 4 * 1.5,
        cancel=cancel,
        take=int(draw() * 10) if draw() < 0.2 else None,
        options=options,
    )


def _child(draw: Callable[[], float]) -> dict[str, Any]:
    return {
        "method": "once" if draw() < 0.4 else "work",
        "script": {"sleep": draw() ** 4 * 0.6, "fail": draw() < 0.1},
        "timeout": (0.3, 3.0, 15.0)[int(draw() * 3)],
    }

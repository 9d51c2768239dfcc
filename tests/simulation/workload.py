"""
What the clients of a run do: a list of operations for each, made by the seed before the run begins.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Operation", "operations"]


@dataclass
class Operation:
    """
    One call of a client.

    Attributes:
        pause: seconds before it.
        cancel: seconds after which the caller cancels it.
        reply: whether it is made by ``call_async``.
    """

    service: str
    method: str
    script: dict[str, Any]
    timeout: float | None
    pause: float
    cancel: float | None = None
    reply: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def operations(seed: object, client: str, count: int) -> list[Operation]:
    """Return the *count* operations of *client*."""
    draw = random.Random(f"operations {seed} {client}").random
    return [_operation(draw) for _ in range(count)]


def _operation(draw: Callable[[], float]) -> Operation:
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
    elif kind > 0.97:
        service, method = (
            ("shop", "typed"),
            ("shop", "missing"),
            ("nobody", "nobody"),
            ("shop", "unencodable"),
        )[int(draw() * 4)]
    chances = (
        ("resend", False, 0.08),
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
        service, method, script, timeout, draw() ** 4 * 1.5, cancel, draw() < 0.1, options
    )


def _child(draw: Callable[[], float]) -> dict[str, Any]:
    return {
        "method": "once" if draw() < 0.4 else "work",
        "script": {"sleep": draw() ** 4 * 0.6, "fail": draw() < 0.1},
        "timeout": (0.3, 3.0, 15.0)[int(draw() * 3)],
    }

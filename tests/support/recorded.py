"""Middleware that tests install by configuration, as ``tests.support.recorded:Record``."""

from __future__ import annotations

from typing import Any

from aiorpc import Call, Handler

__all__ = ["Record", "no_function", "of_one_argument", "passes"]

no_function = 5


class Record:
    """Keeps each call that passes, and how its handler ended: ``ok``, or the name of the error."""

    def __init__(self, fails: bool = False) -> None:
        if fails:
            raise ValueError("boom")
        self.calls: list[tuple[Call, str]] = []

    async def __call__(self, call: Call, handler: Handler) -> Any:
        try:
            result = await handler(call.with_data({"recorded": True}))
        except BaseException as error:
            self.calls.append((call, type(error).__name__))
            raise
        self.calls.append((call, "ok"))
        return result

    @property
    def seen(self) -> set[tuple[str, str, str, str]]:
        return {(call.side, call.kind, str(call), ended) for call, ended in self.calls}


async def passes(call: Call, handler: Handler) -> Any:
    return await handler(call)


async def of_one_argument(call: Call) -> Any: ...

"""A client on a transport of its own, for tests that look at both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiorpc.calling.client import Client
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.wire.protocol import Wire

__all__ = ["client_on"]


@asynccontextmanager
async def client_on(config: Any, **options: Any) -> AsyncIterator[Client]:
    """An open client on the broker of *config*; *options* are those of :class:`Client`."""
    settings = resolve(config)
    async with (
        open_transport(settings, name="a test") as transport,
        Client(transport, Wire.of(settings), settings, owner="a_test", **options) as client,
    ):
        yield client

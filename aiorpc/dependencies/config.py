"""
``Config`` gives a service its configuration, and ``ContextData`` the context data of its call. This
file imports ``extensions``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from ..checks import TEXT, check, optional
from ..extensions import DependencyProvider, Host, WorkerContext

__all__ = ["AuthToken", "Config", "ContextData", "Language", "UserAgent", "UserId"]


class Config(DependencyProvider[Mapping[str, Any]]):
    """The configuration, as the user wrote it, by key: ``self.config["MY_KEY"]``."""

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        self._config = host.settings.raw
        yield

    def value(self, worker_ctx: WorkerContext) -> Mapping[str, Any]:
        return self._config


class ContextData(DependencyProvider[Any]):
    """
    One value of the context data that came with the call.

    ``language = ContextData("language")`` sets ``self.language``, which is ``None`` if the caller
    sent no such value. ``ContextData()`` sets a dict of all values. A subclass may set
    ``context_key``, as in Nameko.
    """

    #: The key of a subclass.
    context_key: ClassVar[str | None] = None

    def __init__(self, key: str | None = None) -> None:
        check("ContextData()", {"key": key}, {"key": optional(TEXT)})
        self._key = self.context_key if key is None else key

    def value(self, worker_ctx: WorkerContext) -> Any:
        data = worker_ctx.context_data
        return dict(data) if self._key is None else data.get(self._key)


class Language(ContextData):
    """The context data ``language``."""

    context_key = "language"


class UserId(ContextData):
    """The context data ``user_id``."""

    context_key = "user_id"


class UserAgent(ContextData):
    """The context data ``user_agent``."""

    context_key = "user_agent"


class AuthToken(ContextData):
    """The context data ``auth_token``."""

    context_key = "auth_token"

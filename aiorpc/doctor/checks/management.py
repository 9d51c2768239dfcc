"""The check of the management API itself. Awaits it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ...exceptions import AioRpcError, ConnectionLost
from ..case import Case
from ..findings import Finding, FindingKind, Severity, ok
from ..registry import check

__all__: list[str] = []

UNREACHABLE = FindingKind(
    "management-unreachable",
    Severity.WARNING,
    why="Without it, the doctor cannot tell of permissions, flags, bindings, policies and ages.",
    remedy="Correct the URL of --management, or enable the plugin: rabbitmq-plugins enable "
    "rabbitmq_management.",
)
REFUSED = FindingKind(
    "management-refused",
    Severity.WARNING,
    why="Without it, the doctor cannot tell of permissions, flags, bindings, policies and ages.",
    remedy="Name a user with the tag administrator in the URL, or with monitoring for all but "
    "permissions: http://user:password@host:15672.",
)


@check
async def management(case: Case) -> AsyncGenerator[Finding]:
    api = case.management
    try:
        user = await api.get("whoami")
    except ConnectionLost as error:
        yield UNREACHABLE.found(api.url, str(error))
    except AioRpcError as error:
        yield REFUSED.found(api.url, str(error))
    else:
        tags = user.get("tags") if isinstance(user, dict) else None
        shown = tags if isinstance(tags, str) else ", ".join(tags or ())
        yield ok(api.url, f"answers; tags of its user: {shown or 'none'}")

"""Checks of the user's permissions, as the management API tells them. Needs --management."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from ..case import Case
from ..findings import Finding, FindingKind, NotChecked, Severity, ok
from ..needs import Access
from ..registry import check

__all__: list[str] = []

REFUSED = FindingKind(
    "permission-missing",
    Severity.ERROR,
    why="The broker refuses the request with 403: the service waits at its start, or its calls and "
    "events fail.",
    remedy="Widen the pattern with rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ.",
)
OPTIONAL = FindingKind(
    "permission-for-extras-missing",
    Severity.WARNING,
    why="The service starts, but cancels, streams, aiorpc ls or parking do not work.",
    remedy="Widen the pattern with rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ.",
)
TOPIC = FindingKind(
    "topic-permission-missing",
    Severity.ERROR,
    why="The broker refuses the binding of the queue, so the service does not start.",
    remedy="Widen the pattern with rabbitmqctl set_topic_permissions.",
)


@check
async def permissions(case: Case) -> AsyncGenerator[Finding]:
    url, management = case.urls[0], case.management
    if not case.needs:
        raise NotChecked(
            "without a service, no permission is needed", "name modules with services", url.user
        )
    found: Mapping[str, Any] | None = await case.api("permissions", url.vhost, url.user)
    if found is None:
        yield REFUSED.found(url.user, f"the user has no permissions in the vhost {url.vhost}")
        return
    topics = await case.api("topic-permissions", url.vhost, url.user) or []
    refused = 0
    for access in _without_doubles(case):
        pattern = found.get(access.operation, "")
        subject = f"{access.operation} {access.name}"
        if not _matches(pattern, access.name):
            refused += 1
            kind = OPTIONAL if access.optional else REFUSED
            text = f"{url.user}'s pattern {pattern!r} does not match; the service {access.reason}"
            yield kind.found(subject, text)
        elif not _topic_permits(access, topics):
            refused += 1
            text = f"the topic permission does not match {access.routing_key!r}"
            yield TOPIC.found(f"{access.name} {access.routing_key}", text)
    if not refused:
        yield ok(url.user, f"has all permissions in the vhost {url.vhost} ({management.url})")


def _without_doubles(case: Case) -> Sequence[Access]:
    """Return each access once; a necessary one replaces an optional one."""
    found: dict[tuple[str, str, str | None], Access] = {}
    for needs in case.needs:
        for each in needs.accesses:
            key = (each.operation, each.name, each.routing_key)
            if key not in found or not each.optional:
                found[key] = each
    return list(found.values())


def _matches(pattern: str, name: str) -> bool:
    """Return whether RabbitMQ would permit *name*. An empty pattern matches no name there."""
    try:
        return bool(pattern) and re.search(pattern, name) is not None
    except re.error:
        raise NotChecked(
            f"the pattern {pattern!r} has a syntax that Python does not read"
        ) from None


def _topic_permits(access: Access, topics: Sequence[Mapping[str, Any]]) -> bool:
    if access.routing_key is None:
        return True
    return all(
        _matches(each["read"], access.routing_key)
        for each in topics
        if each["exchange"] == access.name
    )

"""Runs the doctor for tests, on services that are classes. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isasyncgenfunction
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import urlsplit

import pytest

from aiorpc import ServiceContainer
from aiorpc.config import resolve
from aiorpc.doctor.case import Case
from aiorpc.doctor.examining import examine
from aiorpc.doctor.findings import KINDS, Finding, Severity
from aiorpc.doctor.needs import needs_of
from aiorpc.management import Management

__all__ = [
    "SMALL",
    "Broken",
    "Making",
    "Setup",
    "broken",
    "diagnosed",
    "expect",
    "setups",
    "with_parts",
]

#: The doctor sends a message of this size.
SMALL = {"MAX_MESSAGE_SIZE": 65536}


class Setup(NamedTuple):
    """What the doctor looks at."""

    config: Mapping[str, Any]
    services: Sequence[type] = ()
    management: str | None = None


Make = TypeVar("Make", bound=Callable[[str], Any])
Making: TypeAlias = AbstractAsyncContextManager[Setup]


class Broken(NamedTuple):
    """
    A broken setup, and the finding that the doctor has for it.

    ``make`` gets a URL, and breaks what is behind it until the end of the block.
    """

    name: str
    subject: str
    make: Callable[[str], Making]


def broken(table: list[Broken], name: str, subject: str = "") -> Callable[[Make], Make]:
    """
    Add a setup to *table*, for which the doctor finds *name* about *subject*. The function is an
    async generator, or returns the context manager of another one.
    """

    def add(make: Make) -> Make:
        made = asynccontextmanager(make) if isasyncgenfunction(make) else make
        table.append(Broken(name, subject, made))
        return make

    return add


def setups(table: Sequence[Broken]) -> pytest.MarkDecorator:
    """Run a test with each setup of *table*."""
    ids = [f"{each.name}-{getattr(each.make, '__name__', each.subject)}" for each in table]
    return pytest.mark.parametrize("setup", table, ids=ids)


async def expect(setup: Broken, url: str) -> Finding:
    """Return the doctor's finding for *setup*, which has to be the expected one."""
    async with setup.make(url) as given:
        findings = await diagnosed(given.config, *given.services, management=given.management)
    shown = "\n".join(
        f"{each.severity} {each.name} {each.subject}: {each.what}" for each in findings
    )
    assert "the check failed" not in shown, shown
    named = [each for each in findings if each.name == setup.name and setup.subject in each.subject]
    assert named, shown
    found = named[0]
    assert found.severity not in {Severity.OK, Severity.NOT_CHECKED}, shown
    assert found.what
    assert found.why == KINDS[found.name].why
    assert found.remedy
    return found


async def diagnosed(
    config: Mapping[str, Any] | str, *services: type, management: str | None = None
) -> list[Finding]:
    """Return what the doctor finds."""
    settings = resolve({**SMALL, **config} if isinstance(config, Mapping) else config)
    needs = [needs_of(ServiceContainer(each, settings)) for each in services]
    api = None if management is None else Management(management, settings)
    return await examine(Case(settings, needs, api))


def with_parts(url: str, *, scheme: str = "amqp", login: str = "", path: str = "/") -> str:
    """Return *url* with another scheme, ``user:password`` or vhost."""
    parts = urlsplit(url)
    own, _, address = parts.netloc.rpartition("@")
    return f"{scheme}://{login or own}@{address}{path}"

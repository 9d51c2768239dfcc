"""Brings the servers up, each by the first way that works, and down again.

Touches `.servers/` and what the ways touch: Docker, apt, private processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from . import compose, packages
from .kinds import KINDS, Kind
from .private import PrivateServer
from .probes import listens
from .process import ServerError
from .state import Record, State

Say = Callable[[str], None]

_OTHERS_WITHIN = 1500.0  # seconds to wait for another `up`, which may run apt


@dataclass(frozen=True, slots=True)
class Urls:
    """The URL of each server, or None. The names are those of the pytest marks."""

    rabbitmq: str | None = None
    postgresql: str | None = None
    mysql: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the URLs by environment variable."""
        found = {kind.variable: getattr(self, kind.name) for kind in KINDS}
        return {variable: url for variable, url in found.items() if url is not None}


def urls() -> Urls:
    """Return the servers that the environment names, and for the others those that run."""
    records = State().records()
    return Urls(**{kind.name: _given(kind) or _living(records.get(kind.name)) for kind in KINDS})


def _given(kind: Kind) -> str | None:
    return os.environ.get(kind.variable) or None


def _living(record: Record | None) -> str | None:
    return record.url if record is not None and record.alive else None


@dataclass(slots=True)
class _Search:
    """The kinds that are still missing, and why each way failed. `say` prints what takes long."""

    state: State
    say: Say
    missing: list[Kind]
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def found(self, kind: Kind, url: str, how: str) -> None:
        self.missing.remove(kind)
        self.say(f"{kind.title:<10}  {url}  ({how})")

    def failed(self, kind: Kind, reason: str) -> None:
        self.reasons.setdefault(kind.name, []).append(reason)


def up(say: Say = print, kinds: Sequence[Kind] = KINDS) -> list[Kind]:
    """Find or start the servers, print their URLs by `say`, and return the missing kinds.

    A second call finds what the first one started. A server that cannot be started is no error:
    `say` prints the reason and the remedy.
    """
    search = _Search(State(), say, list(kinds))
    _from_environment(search)
    with search.state.locked("up.lock", _OTHERS_WITHIN):
        for way in (_already_up, _by_docker, _by_installed, _by_apt):
            if search.missing:
                way(search)
    for kind in search.missing:
        say(f"{kind.title:<10}  MISSING. Remedy: {kind.remedy}.")
        for reason in search.reasons.get(kind.name, ["no URL, no Docker, no program, no apt"]):
            say(f"{'':<10}  because: {reason}")
    return search.missing


def down(say: Say = print, kinds: Sequence[Kind] = KINDS) -> None:
    """Stop what `up` and tests started, all at the same time, and remove its data."""
    state = State()
    with state.locked("up.lock", _OTHERS_WITHIN):
        records = list(state.records().values())
        with ThreadPoolExecutor(max(len(records), 1)) as pool:
            for line in pool.map(lambda record: _end(record, state, kinds), records):
                say(line)


def _end(record: Record, state: State, kinds: Sequence[Kind]) -> str:
    kind = next(kind for kind in kinds if kind.name == record.kind)
    try:
        if record.way == "private":
            kind.private(record, state).remove()
        elif record.ours:
            compose.remove([kind.service])
        state.forget(record.name)
    except ServerError as error:
        return f"{record.name} was not stopped: {error}"
    return (
        f"{record.name} {'stopped' if record.ours else 'left as it is, somebody else started it'}"
    )


def _from_environment(search: _Search) -> None:
    for kind in list(search.missing):
        url = _given(kind)
        if url is not None and listens(url):
            search.found(kind, url, f"given by {kind.variable}")
        elif url is not None:
            search.failed(kind, f"{kind.variable} is set, but no server answers there")


def _already_up(search: _Search) -> None:
    records = search.state.records()
    for kind in _unclaimed(search):
        record = records.get(kind.name)
        if record is not None and record.alive:
            search.found(kind, record.url, f"{_how(record)}, already up")
        elif record is not None and record.way == "private":
            _clear_away(search, kind, record)


def _how(record: Record) -> str:
    server = record.processes.get("server")
    return f"private, process {server.pid}" if server else "Docker"


def _clear_away(search: _Search, kind: Kind, record: Record) -> None:
    """Remove what is left of a server that has ended, or that runs without answering."""
    try:
        kind.private(record, search.state).remove()
    except ServerError as error:
        search.failed(kind, f"the server of an earlier run is in the way: {error}")


def _unclaimed(search: _Search) -> list[Kind]:
    """Return the missing kinds, without those that a user has named: these are not replaced."""
    return [kind for kind in search.missing if _given(kind) is None]


def _by_docker(search: _Search) -> None:
    kinds = _unclaimed(search)
    if not kinds or not compose.engine_answers():
        return
    search.say(f"Docker starts {', '.join(kind.title for kind in kinds)} ...")
    try:
        started = compose.start(kind.service for kind in kinds)
    except ServerError as error:
        search.say(f"Docker could not: {error}")
        for kind in kinds:
            search.failed(kind, "Docker could not, see above")
        return
    for kind in kinds:
        _take_composed(search, kind, ours=kind.service in started)


def _take_composed(search: _Search, kind: Kind, *, ours: bool) -> None:
    record = Record(kind.name, kind.name, "compose", compose.urls()[kind.variable], ours=ours)
    if record.alive:
        search.state.put(record)
        search.found(kind, record.url, "Docker" if ours else "Docker, already up")
        return
    search.failed(
        kind, f"Docker runs it, but no server answers at {record.url}: is the engine remote?"
    )
    if ours:
        with suppress(ServerError):
            compose.remove([kind.service])


def _by_installed(search: _Search) -> None:
    kinds = [kind for kind in _unclaimed(search) if kind.private.program() is not None]
    _start_all(search, kinds)


def _by_apt(search: _Search) -> None:
    kinds = [kind for kind in _unclaimed(search) if kind.private.program() is None]
    if not kinds or not packages.apt_works():
        return
    search.say(f"apt-get installs {', '.join(kind.title for kind in kinds)} ...")
    try:
        packages.install(kind.package for kind in kinds)
    except ServerError as error:
        for kind in kinds:
            search.failed(kind, str(error))
        return
    _start_all(search, [kind for kind in kinds if kind.private.program() is not None])


def _start_all(search: _Search, kinds: Iterable[Kind]) -> None:
    chosen = list(kinds)
    with ThreadPoolExecutor(max(len(chosen), 1)) as pool:
        outcomes = pool.map(lambda kind: _started(kind, search.state), chosen)
        for kind, outcome in zip(chosen, outcomes, strict=True):
            if isinstance(outcome, Exception):
                search.failed(kind, str(outcome))
            else:
                how = f"private, process {outcome.pid}, log {outcome.log}"
                search.found(kind, outcome.url, how)


def _started(kind: Kind, state: State) -> PrivateServer | Exception:
    try:
        return kind.private.create(state, kind.name)
    except (ServerError, OSError) as error:
        return error

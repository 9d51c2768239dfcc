"""
Fixtures for servers and transports. A test that needs a server uses its URL (``rabbitmq_uri``),
which also gives it the server's mark (``rabbitmq``). Without the server the test is skipped; with
AIORPC_REQUIRE_SERVERS=1 it fails.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import Rabbit, urls

#: Folders and files of tests that start processes, build packages, run for seconds, or import what
#: takes a second to import. They are not in `make check`.
SLOW = (
    "chaos",
    "cli",
    "docs",
    "foreign",
    "http",
    "nameko",
    "once",
    "services",
    "sqlalchemy",
    "testing",
    "servers",
    "test_mcp.py",
    "test_page.py",
    "test_supervisor.py",
)

#: A test that uses this fixture needs this server: the mark keeps it out of `make check`.
_SERVER_OF = {"rabbitmq_uri": "rabbitmq", "postgresql_uri": "postgresql", "mysql_uri": "mysql"}

# jsonschema would import it, and build 39 parsers for IRIs (2 s in each process).
# No test checks an IRI.
sys.modules["rfc3987_syntax"] = None

# On a slow machine, an example may take long.
settings.register_profile("any_speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_speed")
settings.register_profile("quick", settings.get_profile("any_speed"), max_examples=10)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the slow tests if the mark expression deselects them."""
    skipped = "not slow" in config.option.markexpr and collection_path.name in SLOW
    return True if skipped else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
        for fixture in {*getattr(item, "fixturenames", ())} & _SERVER_OF.keys():
            item.add_marker(_SERVER_OF[fixture])

    # Processes that share the files of tests should not wait for a slow file at the end.
    items.sort(key=lambda item: _is_slow(item.path), reverse=True)


def pytest_collection_finish() -> None:
    """Keep modules and tests out of later garbage collections, which are quicker then."""
    gc.collect()
    gc.freeze()


@functools.cache
def _is_slow(path: Path) -> bool:
    return not {*path.relative_to(Path(__file__).parent).parts}.isdisjoint(SLOW)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates of logged text, because xdist sends reports as UTF-8."""
    return _as_utf8((yield))


def _as_utf8(data: Any) -> Any:
    match data:
        case str():
            return data.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_as_utf8(key): _as_utf8(value) for key, value in data.items()}
        case list() | tuple():
            return type(data)(map(_as_utf8, data))
        case _:
            return data


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what commands do to logging, since all tests share this process."""
    ours, root = logging.getLogger("aiorpc"), logging.getLogger()
    before = ours.level, root.level, root.handlers.copy()
    yield
    ours.setLevel(before[0])
    root.setLevel(before[1])
    root.handlers[:] = before[2]


REMEDY = "start it with `make servers`, or name yours in the environment"


def _server(kind: str) -> str:
    url: str | None = getattr(urls(), kind)
    if url is None:
        text = f"there is no {kind} server: {REMEDY} (AIORPC_TEST_{_VARIABLE[kind]}_URI)"
        if os.environ.get("AIORPC_REQUIRE_SERVERS") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return url


_VARIABLE = {"rabbitmq": "AMQP", "postgresql": "POSTGRESQL", "mysql": "MYSQL"}


@pytest.fixture
def rabbitmq_uri() -> str:
    return _server("rabbitmq")


@pytest.fixture
def postgresql_uri() -> str:
    return _server("postgresql")


@pytest.fixture
def mysql_uri() -> str:
    return _server("mysql")


@pytest.fixture(scope="session")
def node() -> Iterator[Rabbit]:
    """A RabbitMQ of its own, for tests that break it, or that need its administrator."""
    if Rabbit.program() is None:
        pytest.skip("this test starts its own RabbitMQ, and none is installed")
    with Rabbit.fresh() as node:
        yield node


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database server of each kind."""
    return _server(request.param)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/database.sqlite"


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def database_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """The URL of a database of each kind."""
    return sqlite_url if request.param == "sqlite" else _server(request.param)


@pytest.fixture(
    params=[
        "memory",
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def broker_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A configuration for each transport."""
    if request.param == "memory":
        return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}
    return {"AMQP_URI": _server("rabbitmq")}

"""Databases that are missing, refuse, or lack connections and tables: the doctor finds each."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import rpc
from aiorpc.doctor.checks.databases import _of_error
from aiorpc.doctor.findings import Severity
from aiorpc.sqlalchemy import DatabaseSession
from tests.support.doctor import Broken, Setup, broken, diagnosed, expect, setups


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = f"doctor_book_{uuid.uuid4().hex[:8]}"

    id: Mapped[int] = mapped_column(primary_key=True)


class Library:
    name = "library"
    db = DatabaseSession(Base)

    @rpc
    async def count(self) -> int:
        return 0


KEY = "library:Base"
ON_SQLITE: list[Broken] = []
ON_SERVERS: list[Broken] = []


def library(url: str, **more: Any) -> Setup:
    return Setup({"AMQP_URI": "memory://", "DB_URIS": {KEY: url}, **more}, [Library])


def _file(url: str) -> Path:
    return Path(str(make_url(url).database))


def _sql(url: str, *statements: str) -> None:
    with closing(sqlite3.connect(_file(url))) as connection:
        for each in statements:
            connection.execute(each)
        connection.commit()


@broken(ON_SQLITE, "database-missing", KEY)
async def a_file_that_does_not_exist(url: str) -> AsyncIterator[Setup]:
    yield library(url)
    assert not _file(url).exists()  # the doctor made none


@broken(ON_SQLITE, "tables-missing", KEY)
async def an_empty_database(url: str) -> AsyncIterator[Setup]:
    _sql(url)
    yield library(url)


@broken(ON_SQLITE, "migrations-not-recorded", KEY)
async def tables_without_migrations(url: str) -> AsyncIterator[Setup]:
    _sql(url, f"CREATE TABLE {Book.__tablename__} (id INTEGER)")
    yield library(url)


@broken(ON_SQLITE, "migrations-none", KEY)
async def an_empty_table_of_migrations(url: str) -> AsyncIterator[Setup]:
    _sql(url, "CREATE TABLE alembic_version (version_num TEXT)")
    yield library(url)


@broken(ON_SQLITE, "database-misconfigured", KEY)
async def a_database_without_a_url(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": "memory://", "DB_URIS": {"library:Other": url}}, [Library])


@broken(ON_SQLITE, "database-failed", KEY)
async def a_file_that_is_no_database(url: str) -> AsyncIterator[Setup]:
    _file(url).write_text("not a database, but a text that is long enough to be one " * 20)
    yield library(url)


@setups(ON_SQLITE)
async def test_the_doctor_finds_it_on_sqlite(setup: Broken, sqlite_url: str) -> None:
    await expect(setup, sqlite_url)


@broken(ON_SERVERS, "database-unreachable", KEY)
async def a_server_that_does_not_run(url: str) -> AsyncIterator[Setup]:
    yield library(str(make_url(url).set(port=1).render_as_string(hide_password=False)))


@broken(ON_SERVERS, "database-credentials-refused", KEY)
async def a_wrong_password(url: str) -> AsyncIterator[Setup]:
    yield library(make_url(url).set(password="wrong").render_as_string(hide_password=False))


@broken(ON_SERVERS, "database-missing", KEY)
async def a_database_that_does_not_exist(url: str) -> AsyncIterator[Setup]:
    yield library(make_url(url).set(database="nowhere").render_as_string(hide_password=False))


@broken(ON_SERVERS, "pool-too-large", KEY)
async def a_pool_larger_than_the_server(url: str) -> AsyncIterator[Setup]:
    yield library(url, DB_ENGINE_OPTIONS={"pool_size": 100_000})


@broken(ON_SERVERS, "tables-missing", KEY)
async def a_database_without_tables(url: str) -> AsyncIterator[Setup]:
    yield library(url)


@setups(ON_SERVERS)
async def test_the_doctor_finds_it_on_a_server(setup: Broken, server_url: str) -> None:
    await expect(setup, server_url)


async def test_a_database_is_looked_at_without_its_module(server_url: str) -> None:
    findings = await diagnosed({"AMQP_URI": "memory://", "DB_URIS": {KEY: server_url}})
    about = {each.name: each.severity for each in findings if each.subject == KEY}
    assert about["databases"] is Severity.OK
    clock = [each for each in findings if each.subject == KEY and "its clock is" in each.what]
    assert clock


async def test_one_url_for_all_databases_is_looked_at(server_url: str) -> None:
    config = {"AMQP_URI": "memory://", "DB_URI": server_url}
    (found,) = [each for each in await diagnosed(config) if "answers" in each.what]
    assert (found.subject, found.severity) == ("DB_URI", Severity.OK)


async def test_no_error_shows_a_password(server_url: str) -> None:
    url = make_url(server_url).set(password="pa55w0rd").render_as_string(hide_password=False)
    for each in await diagnosed({"AMQP_URI": "memory://", "DB_URIS": {KEY: url}}):
        assert "pa55w0rd" not in f"{each}"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("53300", "database-full"),
        ("1040", "database-full"),
        ("28P01", "database-credentials-refused"),
        ("3D000", "database-missing"),
        ("2003", "database-unreachable"),
        ("", "database-failed"),
    ],
)
def test_the_codes_of_servers_have_names(code: str, name: str) -> None:
    assert _of_error(KEY, ValueError("it failed"), code).name == name

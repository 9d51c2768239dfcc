"""The library example: on SQLite, and with books on PostgreSQL and loans on MariaDB."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiorpc import BadArguments, ClusterRpcProxy, ServiceRunner
from aiorpc.config import load
from aiorpc.sqlalchemy import configured, create_tables
from aiorpc.testing import http_client, worker_factory
from services.library import demo
from services.library.gateway import gateway
from services.library.letters import Letters
from services.library.library import Library, NotAvailable
from services.library.members import Members
from services.library.models import Catalogue, Lending, Membership

AUSTEN = {"name": "Austen", "books": [{"title": "Emma"}, {"title": "Persuasion"}]}


@pytest.fixture
def sqlite_environ(tmp_path: Path) -> dict[str, str]:
    return {
        f"{name}_URL": f"sqlite:///{tmp_path}/{name}.sqlite"
        for name in ("CATALOGUE", "LENDING", "MEMBERS")
    }


@pytest.fixture
def servers_environ(request: pytest.FixtureRequest) -> dict[str, str]:
    postgresql = request.getfixturevalue("postgresql_uri")
    mysql = request.getfixturevalue("mysql_uri")
    rabbitmq = request.getfixturevalue("rabbitmq_uri")
    return {
        "AMQP_URI": rabbitmq,
        "CATALOGUE_URL": postgresql.replace("postgresql://", "postgres://"),
        "LENDING_URL": f"{mysql}?charset=utf8",
        "MEMBERS_URL": postgresql,
    }


@pytest.fixture(
    params=[
        "sqlite_environ",
        pytest.param(
            "servers_environ",
            marks=[pytest.mark.postgresql, pytest.mark.mysql, pytest.mark.rabbitmq],
        ),
    ]
)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    environ = request.getfixturevalue(request.param)
    settings = load(demo.CONFIG, {"AMQP_URI": f"memory://{uuid.uuid4().hex}", **environ})
    await create_tables(settings, Library, Members, drop=True)
    async with (
        ServiceRunner(Library, Members, Letters, config=settings),
        ClusterRpcProxy(settings) as cluster,
    ):
        yield cluster


async def test_books_are_found_with_their_authors(cluster: Any) -> None:
    austen = await cluster.library.add_author(AUSTEN)
    assert [book["title"] for book in austen["books"]] == ["Emma", "Persuasion"]
    assert await cluster.library.find_books("Em") == [
        {"id": austen["books"][0]["id"], "title": "Emma", "author": {"name": "Austen"}}
    ]
    with pytest.raises(BadArguments, match=r"author\.name: Missing data"):
        await cluster.library.add_author({"books": []})


async def test_a_book_is_lent_once_when_many_ask_for_it(cluster: Any) -> None:
    austen = await cluster.library.add_author(AUSTEN)
    emma = austen["books"][0]["id"]
    names = ("Ada", "Bob", "Cleo", "Dan")
    members = [await cluster.members.join(name) for name in names]
    assert await cluster.members.join("Ada") == members[0]
    lent = await asyncio.gather(
        *(cluster.library.lend(emma, member["id"]) for member in members), return_exceptions=True
    )
    assert sum(isinstance(one, dict) for one in lent) == 1
    assert sum(isinstance(one, NotAvailable) for one in lent) == len(names) - 1
    assert await cluster.library.give_back(emma) is True
    assert await cluster.library.give_back(emma) is False
    assert (await cluster.library.lend(emma, members[1]["id"]))["member_id"] == members[1]["id"]
    await cluster.library.give_back(emma)


async def test_books_are_exported_as_a_stream(cluster: Any) -> None:
    await cluster.library.add_author(AUSTEN)
    books = [book async for book in cluster.library.export.stream()]
    assert books == [
        {"title": "Emma", "author": "Austen"},
        {"title": "Persuasion", "author": "Austen"},
    ]


async def test_a_member_gets_a_letter_about_a_loan_and_one_when_it_is_due(cluster: Any) -> None:
    austen = await cluster.library.add_author(AUSTEN)
    ada = await cluster.members.join("Ada")
    async with cluster.letters.sent.stream() as letters:
        loan = await cluster.library.lend(austen["books"][0]["id"], ada["id"])
        assert await anext(letters) == f"Dear Ada, your book is due on {loan['due']}."
    assert [loan async for loan in cluster.library.due_by.stream(loan["due"])] == [loan]
    await cluster.library.give_back(austen["books"][0]["id"])


async def test_the_nightly_job_writes_to_those_whose_book_is_due(
    sqlite_environ: dict[str, str],
) -> None:
    settings = load(demo.CONFIG, {"AMQP_URI": f"memory://{uuid.uuid4().hex}", **sqlite_environ})
    letters = worker_factory(Letters)
    letters.library.due_by.stream.return_value.__aiter__.return_value = [
        {"book_id": 1, "member_id": 2, "due": "2026-12-01"}
    ]
    letters.members.get.return_value = {"name": "Ada"}
    await letters.remind()
    letters.post.send.assert_called_once_with("Dear Ada, please return book 1.")
    assert settings.web_server_address == "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("path", "body", "token", "status"),
    [
        ("library/find_books", {"title": "Em"}, "reading-is-fun", 200),
        ("library/find_books", {"title": "Em"}, "guess", 401),
        ("library/lend", {"book_id": 999, "member_id": 1}, "reading-is-fun", 409),
        ("library/add_author", {"author": {}}, "reading-is-fun", 404),
    ],
)
async def test_the_gateway_offers_some_methods_to_some_clients(
    sqlite_environ: dict[str, str], path: str, body: dict[str, Any], token: str, status: int
) -> None:
    environ = {"AMQP_URI": f"memory://{uuid.uuid4().hex}", **sqlite_environ}
    settings = load(demo.CONFIG, {**environ, "WEB_SERVER_ADDRESS": "127.0.0.1:0"})
    await create_tables(settings, Library, Members)
    async with (
        ServiceRunner(Library, Members, gateway, config=settings) as runner,
        http_client(runner) as client,
    ):
        headers = {"Authorization": f"Bearer {token}"}
        response = await client.post(f"/rpc/{path}", json=body, headers=headers)
        assert response.status_code == status


async def test_a_loan_needs_a_book_and_a_member(cluster: Any) -> None:
    austen = await cluster.library.add_author(AUSTEN)
    with pytest.raises(NotAvailable, match="there is no book 999"):
        await cluster.library.lend(999, 1)
    with pytest.raises(NotAvailable, match="there is no member 999"):
        await cluster.library.lend(austen["books"][0]["id"], 999)


async def test_the_demo_prints_what_it_calls(
    sqlite_environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    await demo.main({"AMQP_URI": f"memory://{uuid.uuid4().hex}", **sqlite_environ})
    printed = capsys.readouterr().out
    assert "await library.find_books(\"Em\")\n    -> [{'author': {'name': 'Austen'}" in printed
    assert "NotAvailable: book 1 is lent already" in printed
    assert "Dear Ada, your book is due on" in printed
    assert "POST /rpc/library/find_books\n    -> 200 [{" in printed
    assert "BadArguments: Library.add_author: author.name: Missing data" in printed


def test_compose_starts_the_missing_servers_by_name() -> None:
    compose = yaml.safe_load((demo.CONFIG.parents[2] / "compose.yaml").read_text())
    environment = compose["services"]["library"]["environment"]
    settings = load(demo.CONFIG, environment)
    catalogue = configured(settings, "library", Catalogue).url.url
    lending = configured(settings, "library", Lending).url.url
    members = configured(settings, "members", Membership).url.url
    for url, service in ((catalogue, "postgresql"), (lending, "mariadb"), (members, "postgresql")):
        assert url.host == service
        assert service in compose["services"]["library"]["depends_on"]
        variables = compose["services"][service]["environment"].values()
        assert {url.username, url.password, url.database} <= set(variables)


def test_no_file_of_the_examples_is_long() -> None:
    for path in demo.CONFIG.parent.glob("*.*"):
        assert len(path.read_text().splitlines()) < 80, path

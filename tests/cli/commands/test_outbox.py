"""``aiorpc outbox``: what waits, why, and what an operator can do about it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiorpc import Retry, ServiceContainer
from aiorpc.sqlalchemy.outbox.claims import now
from aiorpc.wire.message import Message
from tests.support.command_line import Done, invoke
from tests.support.outboxes import TABLE, Heard, Rows, mailer, shop, tables
from tests.support.waiting import eventually


class Operator:
    """Runs ``aiorpc outbox`` on one database."""

    def __init__(self, rows: Rows, config: dict[str, Any], service: Any, file: Path) -> None:
        self.rows, self.config, self.service = rows, config, service
        self._file = file

    async def __call__(self, *words: str) -> Done:
        import asyncio

        options = ("--config", str(self._file), "--table", TABLE)
        return await asyncio.to_thread(invoke, "outbox", *words, *options)

    async def json(self, *words: str) -> Any:
        done = await self(*words, "--json")
        return json.loads(done.stdout)


@pytest.fixture
async def operator(database_url: str, tmp_path: Path) -> AsyncIterator[Operator]:
    service = shop(retry=Retry(delays=()))
    config = {"DB_URI": database_url, "AMQP_URI": f"memory://{uuid.uuid4().hex}"}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(config))
    async with tables(config, service) as engine:
        yield Operator(Rows(engine, service), config, service, file)


async def test_ls_counts_messages_by_destination_and_state(operator: Operator) -> None:
    rows, then = operator.rows, now()
    await rows.write("a", "b", written_at=then)
    await rows.write("c", due_at=None, reason="Unroutable: nobody", attempts=5, order_key="k")
    await rows.write("d", order_key="k")
    await rows.write("e", attempts=1, due_at=then + 60_000, reason="Overloaded: full")
    done = await operator("ls", "--messages")
    assert done.code == 0, done.stderr
    assert "DB_URI: 5 messages" in done.stdout
    (listed,) = await operator.json("ls", "--messages")
    assert {each["state"]: each["count"] for each in listed["groups"]} == {
        "waiting": 2,
        "set aside": 1,
        "held": 1,
        "retrying": 1,
    }
    states = ["waiting", "waiting", "set aside", "held", "retrying"]
    assert [each["state"] for each in listed["messages"]] == states
    (listed,) = await operator.json("ls", "--service", "another")
    assert listed["groups"] == []


async def test_show_masks_secrets(operator: Operator) -> None:
    message = Message(body=b"", message_id="4711", headers={"nameko.auth_token": "geheim"})
    await operator.rows.write("x", message=message, order_key="k")
    (row,) = await operator.rows.all()
    body = b'{"book": "Emma", "password": "geheim"}'
    async with operator.rows._engine.begin() as connection:
        await connection.execute(operator.rows.table.update().values(body=body, size=len(body)))
    done = await operator("show", "4711")
    assert done.code == 0, done.stderr
    assert "geheim" not in done.stdout
    assert '"book": "Emma"' in done.stdout
    assert "key       k" in done.stdout
    shown = await operator.json("show", str(row.id))
    assert shown["body"] == {"book": "Emma", "password": "***"}
    assert (await operator("show", "4711", "--body")).stdout.encode() == body
    assert "there is no message 0815" in (await operator("show", "0815")).stderr


async def test_a_message_id_may_be_a_number_longer_than_any_row_id(operator: Operator) -> None:
    number = "1" * 30
    await operator.rows.write("x", message=Message(body=b'"Emma"', message_id=number))
    done = await operator("show", number)
    assert (done.code, done.stderr) == (0, "")
    assert number in done.stdout


async def test_a_message_that_is_set_aside_is_retried_or_discarded(operator: Operator) -> None:
    rows, service = operator.rows, operator.service
    heard = Heard()
    await rows.write("first", "second", routing_key="nobody", mandatory=True, order_key="k")
    await rows.write("third", order_key="k")
    async with (
        ServiceContainer(mailer(service), operator.config, middleware=[heard]),
        ServiceContainer(service, operator.config),
    ):

        async def aside() -> bool:
            return [row.due_at for row in await rows.all()] == [None, 0, 0]

        await eventually(aside)
        first, second, _ = await rows.all()
        done = await operator("retry", str(second.id))
        assert (done.code, done.stdout) == (1, "0 messages retried\n")
        assert f"message {second.id} is held, and not set aside" in done.stderr
        assert "say which messages" in (await operator("retry")).error
        assert "add --yes" in (await operator("discard", "--all")).error
        done = await operator("discard", str(first.id), "--yes")
        assert (done.code, done.stdout) == (0, "1 message discarded\n")

        async def next_aside() -> bool:
            return [row.due_at for row in await rows.all()] == [None, 0]

        await eventually(next_aside)
        async with rows._engine.begin() as connection:  # the cause is mended
            await connection.execute(rows.table.update().values(routing_key="ordered"))
        assert await operator.json("retry", "--all") == {"retried": 1}
        assert await heard.until(2) == ["second", "third"]
        await rows.gone()


def test_a_missing_table_or_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"DB_URIS": {"shop:Base": f"sqlite:///{tmp_path}/none.db"}}))
    done = invoke("outbox", "ls", "--config", str(file))
    assert "shop:Base: cannot look at the database: the file" in done.error
    assert not (tmp_path / "none.db").exists()
    assert "has no database" in invoke("outbox", "ls", "--broker", "memory://").error
    done = invoke("outbox", "ls", "--config", str(file), "--database", "other")
    assert "there is no database 'other': there is shop:Base" in done.error
    assert "say what to do: aiorpc outbox ls" in invoke("outbox").error

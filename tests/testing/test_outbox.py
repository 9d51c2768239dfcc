"""Services with an outbox in unit tests: its mock, and its rows in the session of a test."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from aiorpc import ServiceContainer
from aiorpc.testing import entrypoint_hook, replace_dependencies, worker_factory
from tests.support.outboxes import TABLE, Base, shop


@pytest.fixture
def model_base() -> type:
    return Base


async def test_the_mock_of_an_outbox_knows_its_arguments() -> None:
    service = worker_factory(shop())
    await service.order("Emma", key="k")
    service.outbox.dispatch.assert_awaited_once_with("ordered", "Emma", key="k")
    with pytest.raises(TypeError):
        await service.outbox.dispatch()
    with pytest.raises(TypeError):
        await service.outbox.publish("x", "a routing key is given by name")
    await service.outbox("ordered", "as a function")
    service.outbox.assert_awaited_once_with("ordered", "as a function")
    for send in (service.outbox, service.outbox.dispatch, service.outbox.publish):
        with pytest.raises(TypeError, match="has no option 'mandatry'"):
            await send("ordered", mandatry=True)
    await service.outbox.dispatch("ordered", mandatory=True, session=None)


async def test_an_outbox_writes_in_the_session_of_a_test(
    db_session: Any, container_factory: Any
) -> None:
    container: ServiceContainer = container_factory(shop())
    replace_dependencies(container, db=db_session)
    async with container, entrypoint_hook(container, "order") as order:
        await order("Emma")
    table = Base.metadata.tables[TABLE]
    (row,) = await db_session.execute(select(table.c.routing_key, table.c.body))
    assert row == ("ordered", b'"Emma"')

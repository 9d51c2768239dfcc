"""Answers that no queue takes: their caller has ended, or lost its reply queue."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ConnectionLost, ServiceContainer, rpc
from tests.support.waiting import eventually


@pytest.mark.parametrize("confirm", [False, True])
async def test_answers_that_nobody_gets_are_counted_and_logged_once(
    broker_config: dict[str, Any], confirm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    entered, may_return = [], asyncio.Event()

    class Service:
        name = f"unheard_{uuid.uuid4().hex}"

        @rpc
        async def wait(self, number: int) -> None:
            entered.append(number)
            await may_return.wait()

    async with ServiceContainer(Service, {**broker_config, "CONFIRM_REPLIES": confirm}) as host:
        async with ClusterRpcProxy(broker_config) as cluster:
            calls = [cluster[Service.name].wait.call_async(number) for number in range(5)]
            await eventually(lambda: len(entered) == 5)
        for call in calls:
            with pytest.raises(ConnectionLost):
                await call.result()
        may_return.set()
        await eventually(lambda: host.transport.returns.unheard == 5)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert caplog.text.count("no queue takes the answer to call") == 1
    assert len(entered) == 5

"""Which parked queues exist, by name, by discovery and by the management API."""

from __future__ import annotations

from typing import Any

import pytest

from aiorpc import Retry, ServiceContainer, event_handler, rpc
from aiorpc.exceptions import ConfigurationError
from aiorpc.management import ListedQueue
from aiorpc.parked.queues import find_queues, queue_named
from aiorpc.transports.reading import LookCost
from aiorpc.wire.message import Queue
from tests.support.parked import Yard


def test_a_queue_is_named_with_or_without_its_end() -> None:
    assert queue_named("a") == queue_named("a.parked") == "a.parked"
    assert len(queue_named("a" * 255)) == 255
    for wrong in ("a" * 300, "a\nb"):
        with pytest.raises(ConfigurationError, match="cannot name a queue"):
            queue_named(wrong)


async def test_names_need_no_discovery_and_a_missing_one_is_told(yard: Yard) -> None:
    await yard.park(b"1", b"2")
    found = await find_queues(yard.transport, [yard.source, "nothing"], 60, None)
    assert [(each.name, each.messages, each.cost) for each in found.queues] == [
        (yard.parked, 2, "")
    ]
    assert (found.missing, found.incomplete) == (["nothing.parked"], "")


async def test_services_that_answer_name_their_queues(
    yard: Yard, broker_config: dict[str, Any]
) -> None:
    name = f"parked_{yard.source[10:18]}"

    class Service:
        @rpc
        async def call(self) -> None: ...

        @event_handler("tests", "happened", retry=Retry(immediate=0, delays=()))
        async def handle(self, payload: Any) -> None: ...

    service = type("Service", (Service,), {"name": name})
    mine = [f"evt-tests-happened--{name}.handle.parked", f"rpc-{name}.parked"]
    yard.queues += [*mine, *(queue.removesuffix(".parked") for queue in mine)]
    await yard.transport.declare(queues=[Queue(queue) for queue in mine])
    async with ServiceContainer(service, broker_config):
        found = await find_queues(yard.transport, [f"*{name}*"], 0.3, None)
    assert [each.name for each in found.queues] == mine
    assert "--management" in found.incomplete
    assert yard.parked not in [each.name for each in found.queues]


async def test_the_management_api_names_all_queues(yard: Yard) -> None:
    listed = {name: ListedQueue(name) for name in (yard.source, yard.parked, "gone.parked")}
    for names in ([], ["*"], ["evt-tests-*"], [f"{yard.source[:-4]}*"]):
        found = await find_queues(yard.transport, names, 60, listed)
        assert [each.name for each in found.queues] == [yard.parked]
        assert found.incomplete == ""


async def test_a_queue_may_be_named_like_a_pattern(yard: Yard) -> None:
    star = f"{yard.source}-*"
    yard.queues.append(f"{star}.parked")
    await yard.transport.declare(queues=[Queue(f"{star}.parked")])
    found = await find_queues(yard.transport, [star], 60, {})
    assert [each.name for each in found.queues] == [f"{star}.parked"]


@pytest.mark.parametrize(
    ("cost", "policy", "text"),
    [
        (LookCost(False), {"delivery-limit": 5}, ""),
        (LookCost(True), {}, ""),
        (LookCost(True, -1), {}, ""),
        (LookCost(True, 20), {}, "after 20 of them"),
        (LookCost(True, 20), {"delivery-limit": 5}, "after 5 of them"),
        (LookCost(True), {"delivery-limit": 7}, "after 7 of them"),
        (LookCost(None), {}, "is not checked"),
    ],
)
async def test_a_delivery_limit_is_the_cost_of_a_look(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, cost: LookCost, policy: dict[str, int], text: str
) -> None:
    async def told(reader: Any) -> LookCost:
        return cost

    await yard.park(b"1")
    listed = {yard.parked: ListedQueue(yard.parked, effective_policy_definition=policy)}
    reader = type(yard.transport.reader(yard.parked))
    monkeypatch.setattr(reader, "cost", told)
    found = await find_queues(yard.transport, [yard.parked], 60, listed)
    assert text in found.queues[0].cost
    assert bool(text) == bool(found.queues[0].cost)
    assert found.queues[0].note == ""
    (unlisted,) = (await find_queues(yard.transport, [yard.parked], 60, None)).queues
    is_unchecked = cost.counts and (cost.limit or -1) < 0
    assert ("not checked without --management" in unlisted.note) == bool(is_unchecked)

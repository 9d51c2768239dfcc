"""Replays and purges: nothing is lost, and what cannot be replayed stays; over every transport."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from aiorpc.config import resolve
from aiorpc.parked.messages import ParkedMessage, Selection
from aiorpc.parked.settling import INTERRUPTED, Purge, Replay
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.parked import Yard
from tests.support.waiting import eventually

ALL = Selection()


async def test_all_messages_are_replayed_in_order_with_their_ids_and_without_counts(
    yard: Yard,
) -> None:
    bodies = [b"%d" % number for number in range(25)]
    headers = {"nameko.call_id_stack": ["a.b.1"], "aiorpc-retries": 3, "mine": 1}
    for body in bodies:
        await yard.park(body, headers=headers, message_id=f"id {body.decode()}", priority=3)
    settled = await Replay(yard.transport, yard.parked, ALL).run()
    assert (settled.messages, settled.read, settled.wanted, settled.done) == (25, 25, 25, 25)
    assert (settled.failed, settled.missing, settled.ended) == ([], [], "")
    assert settled.to == {f"queue {yard.source}": 25}
    assert await yard.count(yard.parked) == 0
    replayed = await yard.all(yard.source)
    assert [each.message.body for each in replayed] == bodies
    assert replayed[3].message.message_id == "id 3"
    assert replayed[3].message.priority == 3
    assert replayed[3].message.headers == {
        "nameko.call_id_stack": ["a.b.1"],
        "mine": 1,
        "aiorpc-exchange": "tests.events",
        "aiorpc-routing-key": "sent",
    }


async def test_a_group_is_replayed_and_the_others_keep_their_order(yard: Yard) -> None:
    for number in range(6):
        await yard.park(b"%d" % number, error="KeyError" if number % 2 else "ValueError")
    settled = await Replay(yard.transport, yard.parked, Selection(error="KeyError")).run()
    assert (settled.wanted, settled.done, settled.left) == (3, 3, 3)
    assert await yard.bodies(yard.parked) == [b"0", b"2", b"4"]
    assert await yard.bodies(yard.source) == [b"1", b"3", b"5"]


async def test_one_message_is_replayed_and_a_name_that_nobody_has_is_told(yard: Yard) -> None:
    await yard.park(b"1", b"2", b"3")
    settled = await Replay(yard.transport, yard.parked, Selection(names=("2", "9"))).run()
    assert (settled.done, settled.missing) == (1, ["9"])
    assert await yard.bodies(yard.parked) == [b"1", b"3"]


async def test_an_id_of_two_equal_messages_names_one_of_them(yard: Yard) -> None:
    message = Message(body=b"twin")
    await yard.put(message)
    await yard.put(message)
    names = ("twin",)
    message.message_id = "twin"
    await yard.put(message)
    await yard.put(message)
    settled = await Replay(yard.transport, yard.parked, Selection(names=names)).run()
    assert settled.done == 1
    assert await yard.count(yard.parked) == 3


async def test_a_dry_run_counts_and_changes_nothing(yard: Yard) -> None:
    await yard.park(b"1", b"2")
    for kind in (Replay, Purge):
        settled = await kind(yard.transport, yard.parked, ALL, dry=True).run()
        assert (settled.wanted, settled.done) == (2, 2)
        assert await yard.bodies(yard.parked) == [b"1", b"2"]
    assert await yard.count(yard.source) == 0


async def test_a_message_whose_queue_is_gone_stays(yard: Yard) -> None:
    await yard.park(b"1", b"2")
    await yard.transport.delete(yard.source)
    settled = await Replay(yard.transport, yard.parked, ALL).run()
    assert settled.done == 0
    assert [each.position for each in settled.failed] == [1, 2]
    assert settled.failed[0].reason.startswith(f"no queue takes it: queue {yard.source}. Start ")
    assert "--publish" in settled.failed[0].reason
    assert await yard.bodies(yard.parked) == [b"1", b"2"]


async def test_a_message_whose_exchange_is_gone_stays(yard: Yard) -> None:
    await yard.park(b"1")
    settled = await Replay(yard.transport, yard.parked, ALL, publish=True).run()
    assert settled.done == 0
    assert "tests.events" in settled.failed[0].reason
    assert await yard.bodies(yard.parked) == [b"1"]


async def test_other_queues_of_the_exchange_get_a_replay_only_on_demand(yard: Yard) -> None:
    exchange = Exchange(f"{yard.source}.exchange", "topic", auto_delete=True)
    other = Queue(f"{yard.source}-other", exchange, "sent")
    yard.queues.append(other.name)
    await yard.transport.declare(queues=[other])
    for body in (b"1", b"2"):
        headers = {"x-original-exchange": exchange.name, "x-original-routingKey": "sent"}
        await yard.put(Message(body=body, headers=headers))
    await Replay(yard.transport, yard.parked, Selection(names=("1",))).run()
    assert (await yard.bodies(yard.source), await yard.count(other.name)) == ([b"1"], 0)
    settled = await Replay(yard.transport, yard.parked, ALL, publish=True).run()
    assert settled.to == {f"exchange {exchange.name!r}, key 'sent'": 1}
    assert (await yard.count(yard.source), await yard.bodies(other.name)) == (1, [b"2"])


async def test_messages_that_fail_again_at_once_are_replayed_once(yard: Yard) -> None:
    """Otherwise a replay of a poison message would never end."""
    await yard.park(b"1", b"2")

    def received(delivery) -> None:
        message = Message(body=delivery.message.body)
        delivery.answer(Outgoing(exchange="", routing_key=yard.parked, message=message))

    async with await yard.transport.subscribe(Queue(yard.source), received):
        settled = await Replay(yard.transport, yard.parked, ALL).run()
        assert (settled.wanted, settled.done) == (2, 2)
        await eventually(lambda: yard.holds(yard.parked, 2))
    assert sorted(await yard.bodies(yard.parked)) == [b"1", b"2"]


async def test_a_message_is_edited_or_left_where_it_is(yard: Yard) -> None:
    await yard.park(b"1", b"2")

    async def edit(parked: ParkedMessage, message: Message) -> Message | None:
        if parked.position == 1:
            return None
        message.body = b"edited"
        return message

    settled = await Replay(yard.transport, yard.parked, ALL, edit=edit).run()
    assert (settled.done, [each.position for each in settled.failed]) == (1, [1])
    assert await yard.bodies(yard.parked) == [b"1"]
    assert await yard.bodies(yard.source) == [b"edited"]


async def test_a_stop_ends_after_the_batch(yard: Yard) -> None:
    await yard.park(*(b"%d" % number for number in range(12)))
    replay = Replay(yard.transport, yard.parked, ALL)
    replay.changed = replay.stop
    settled = await replay.run()
    assert (settled.done, settled.ended) == (10, INTERRUPTED)
    assert await yard.bodies(yard.parked) == [b"10", b"11"]


async def test_a_cancelled_replay_loses_nothing(yard: Yard) -> None:
    bodies = [b"%d" % number for number in range(40)]
    await yard.park(*bodies)
    replay = Replay(yard.transport, yard.parked, ALL)
    running = asyncio.create_task(replay.run())
    replay.changed = running.cancel
    await asyncio.gather(running, return_exceptions=True)
    ledger = await yard.ledger()
    assert set(ledger) == set(bodies)


@pytest.mark.parametrize("kind", [Replay, Purge])
async def test_a_lost_connection_ends_it_and_loses_nothing(
    yard: Yard, broker_config: dict[str, Any], kind: type[Replay | Purge]
) -> None:
    bodies = [b"%d" % number for number in range(40)]
    await yard.park(*bodies)
    async with open_transport(resolve(broker_config), name="cut") as transport:
        work = kind(transport, yard.parked, ALL)
        work.changed = partial(cut, transport)
        settled = await work.run()
    assert (settled.done, bool(settled.ended)) == (10, True)
    # The acks of the last batch may be lost, too: then its messages are in both queues.
    expected = set(bodies if kind is Replay else bodies[10:])

    async def has_all() -> bool:
        return set(await yard.ledger()) >= expected

    await eventually(has_all)


async def test_a_purge_deletes_what_is_wanted(yard: Yard) -> None:
    for number in range(6):
        await yard.park(b"%d" % number, error="KeyError" if number % 2 else "ValueError")
    settled = await Purge(yard.transport, yard.parked, Selection(error="KeyError")).run()
    assert (settled.wanted, settled.done) == (3, 3)
    assert await yard.bodies(yard.parked) == [b"0", b"2", b"4"]
    await Purge(yard.transport, yard.parked, ALL).run()
    assert await yard.ledger() == {}


@pytest.mark.parametrize("kind", [Replay, Purge])
async def test_an_empty_queue_and_a_missing_one_are_nothing_to_do(
    yard: Yard, kind: type[Replay | Purge]
) -> None:
    for queue in (yard.parked, f"{yard.source}.nothing"):
        settled = await kind(yard.transport, queue, ALL).run()
        assert (settled.messages, settled.done, settled.ended) == (0, 0, "")

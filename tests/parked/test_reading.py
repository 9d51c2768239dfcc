"""A look at parked messages changes nothing but ``redelivered``; over every transport."""

from __future__ import annotations

import pytest

from aiorpc.exceptions import ConfigurationError
from aiorpc.parked import reading
from aiorpc.parked.messages import Selection
from aiorpc.parked.reading import batches, find, look
from aiorpc.wire.message import Message
from tests.support.parked import Yard

ALL = Selection()


async def test_messages_are_grouped_by_method_and_error(yard: Yard) -> None:
    await yard.park(b"1", b"2", b"3")
    await yard.park(b"4", error="KeyError")
    await yard.park(b"5", method="mailer.other")
    await yard.put(Message(body=b"by hand"))
    seen = await look(yard.transport, yard.parked, 100, ALL, each=True)
    assert seen is not None
    assert (seen.messages, seen.read) == (6, 6)
    groups = [(each.method, each.error, each.count, each.first) for each in seen.groups]
    assert groups == [
        ("mailer.send", "ValueError", 3, 1),
        ("mailer.send", "KeyError", 1, 4),
        ("mailer.other", "ValueError", 1, 5),
        ("mailer.send", "", 1, 6),
    ]
    first = seen.groups[0]
    assert first.reason == "ValueError: no luck with b'1'"
    assert (first.oldest or "") <= (first.newest or "")
    assert first.bytes == 3
    assert [row.position for row in seen.rows] == [1, 2, 3, 4, 5, 6]
    assert len({row.id for row in seen.rows}) == 6
    assert await yard.bodies(yard.parked) == [b"1", b"2", b"3", b"4", b"5", b"by hand"]


async def test_a_selection_and_a_limit_apply(yard: Yard) -> None:
    await yard.park(b"1", b"2", error="KeyError")
    await yard.park(b"3")
    seen = await look(yard.transport, yard.parked, 2, Selection(error="KeyError"))
    assert seen is not None
    assert (seen.messages, seen.read, [each.count for each in seen.groups]) == (3, 2, [2])
    counted = await look(yard.transport, yard.parked, 0, ALL)
    assert counted is not None
    assert (counted.messages, counted.read, counted.groups) == (3, 0, [])
    assert await yard.bodies(yard.parked) == [b"1", b"2", b"3"]


async def test_a_queue_that_does_not_exist_has_no_look(yard: Yard) -> None:
    assert await look(yard.transport, f"{yard.source}.nothing", 10, ALL) is None


async def test_batches_grow_with_small_messages_and_shrink_with_large_ones(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BYTES", 3000)
    await yard.park(*(b"%d" % number for number in range(32)))
    await yard.park(b"x" * 1000, *(b"%d" % number for number in range(9)))
    sizes, positions = [], []
    async with yard.transport.reader(yard.parked) as reader:
        async for batch in batches(reader, 40):
            sizes.append(len(batch))
            positions += [each.position for each in batch]
    assert sizes == [10, 20, 10]
    assert positions == list(range(1, 41))
    await yard.park(*(b"%d" % number for number in range(32)))
    async with yard.transport.reader(yard.parked) as reader:
        await reader.take(30)
        sizes = [len(batch) async for batch in batches(reader, 18)]
    assert sizes == [10, 3, 3, 2]


async def test_a_message_is_found_by_position_by_id_and_by_message_id(yard: Yard) -> None:
    await yard.park(b"1", b"2")
    await yard.park(b"3", message_id="its own id")
    seen = await look(yard.transport, yard.parked, 10, ALL, each=True)
    assert seen is not None
    for name, body in {
        "2": b"2",
        seen.rows[0].id: b"1",
        "its own id": b"3",
    }.items():
        async with yard.transport.reader(yard.parked) as reader:
            found = await find(reader, 10, Selection(names=(name,)))
            assert found.message.body == body, name
    async with yard.transport.reader(yard.parked) as reader:
        with pytest.raises(ConfigurationError, match="no message 4 among"):
            await find(reader, 10, Selection(names=("4",)))


async def test_the_id_of_a_message_is_the_same_at_each_look(yard: Yard) -> None:
    await yard.park(b"1", headers={"list": [1, {"a": b"\xff"}]})
    ids = []
    for _ in range(2):
        seen = await look(yard.transport, yard.parked, 10, ALL, each=True)
        assert seen is not None
        ids += [row.id for row in seen.rows]
    assert len(set(ids)) == 1


@pytest.mark.parametrize(
    ("selection", "bodies"),
    [
        (Selection(method="mailer.send"), [b"1", b"3"]),
        (Selection(method="*.other"), [b"2"]),
        (Selection(error="ValueError"), [b"1", b"2"]),
        (Selection(error="luck with b'3'"), [b"3"]),
        (Selection(error="valueerror"), [b"1", b"2"]),
        (Selection(error="Value*", method="mailer.send"), [b"1"]),
        (Selection(names=("1", "3"), error="KeyError"), [b"3"]),
        (Selection(error=""), []),
    ],
)
async def test_a_message_has_to_fit_each_condition(
    yard: Yard, selection: Selection, bodies: list[bytes]
) -> None:
    await yard.park(b"1")
    await yard.park(b"2", method="mailer.other")
    await yard.park(b"3", error="KeyError")
    seen = await look(yard.transport, yard.parked, 10, selection, each=True)
    assert seen is not None
    assert [b"%d" % row.position for row in seen.rows] == bodies

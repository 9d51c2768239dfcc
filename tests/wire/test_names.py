"""Names of queues that are made of other names."""

from __future__ import annotations

import pytest

from aiorpc.wire.names import cancel_queue, discovery_queue, parked_queue


def test_the_queue_of_parked_messages_is_named_after_the_queue() -> None:
    assert parked_queue("rpc-shop").name == "rpc-shop.parked"


@pytest.mark.parametrize("queue", ["q" * 249, "é" * 127, "q" * 255])
def test_a_long_name_is_cut_for_its_parked_messages_and_stays_unique(queue: str) -> None:
    names = {parked_queue(queue).name, parked_queue(queue[:-1] + "x").name}
    assert len(names) == 2
    assert all(len(name.encode()) <= 255 for name in names)
    assert parked_queue(queue).name == parked_queue(queue).name


@pytest.mark.parametrize("service", ["x" * 251, "é" * 125])
def test_long_services_have_queues_of_their_instances(service: str) -> None:
    assert cancel_queue(service).name != cancel_queue(service).name
    assert len(discovery_queue(service).name.encode()) <= 255

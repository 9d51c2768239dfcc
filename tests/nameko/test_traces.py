"""A trace of OpenTelemetry passes unmodified Nameko: aiorpc -> nameko -> aiorpc, one trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer
from tests.nameko.processes import Nameko
from tests.nameko.services import service
from tests.support.spans import traced

pytestmark = [pytest.mark.nameko]


async def test_a_trace_passes_nameko_and_every_span_has_its_parent(
    nameko: Nameko, new_name: Callable[[str], str], broker: dict[str, Any]
) -> None:
    settings, spans = traced(broker["AMQP_URI"])
    first, last = new_name("first"), new_name("last")
    async with (
        ServiceContainer(service(first), settings),
        ServiceContainer(service(last), settings),
        ClusterRpcProxy(settings, timeout=5) as cluster,
    ):
        # our client -> our service -> Nameko -> our service
        answer = await cluster[first].hop(nameko.x, "hop", [last, "echo", [1], {}], {})
    assert answer == [[1], {}]
    assert spans.tree() == [
        f"CLIENT {first}/hop",
        f"  SERVER {first}/hop",
        f"    CLIENT {nameko.x}/hop",
        f"      SERVER {last}/echo",
    ]


async def test_nameko_sends_the_trace_with_its_prefix_and_as_context_data(
    nameko: Nameko, broker: dict[str, Any]
) -> None:
    settings, spans = traced(broker["AMQP_URI"])
    async with ClusterRpcProxy(settings, timeout=5) as cluster:
        data = await cluster[nameko.x].context()
    (span,) = spans.finished()
    trace = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
    assert data["traceparent"].startswith(trace)

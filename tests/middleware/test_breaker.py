"""``breaker``: when a circuit opens, and how it closes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from aiorpc import (
    Call,
    CircuitOpen,
    ClusterRpcProxy,
    ConfigurationError,
    ConnectionLost,
    Overloaded,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    ServiceUnavailable,
    UnknownService,
    rpc,
)
from aiorpc.middleware import breaker as module
from aiorpc.middleware.breaker import breaker

LATE = RpcTimeout("no answer")


class Clock:
    """The breaker's clock, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def outcome(breaks: breaker, error: BaseException | None, service: str = "shop") -> str:
    """Make one call whose handler raises *error*, and return how it ended."""

    async def handler(call: Call) -> str:
        if error is not None:
            raise error
        return "ok"

    try:
        result: str = await breaks(Call(service, "quote"), handler)
    except BaseException as raised:
        return "sent" if raised is error else type(raised).__name__
    return result


@pytest.mark.parametrize(
    "error", [LATE, UnknownService("shop"), ServiceUnavailable("none"), Overloaded("full")]
)
async def test_calls_fail_at_once_after_failures_in_a_row(clock: Clock, error: Exception) -> None:
    breaks = breaker(failures=3, open_for=30)
    assert [await outcome(breaks, error) for _ in range(4)] == [*["sent"] * 3, "CircuitOpen"]
    assert await outcome(breaks, None, "other") == "ok"
    clock.now += 10
    with pytest.raises(CircuitOpen) as caught:
        await breaks(Call("shop", "quote"), asyncio.sleep)
    assert caught.value.retry_after == 20
    assert str(caught.value) == (
        "shop.quote was not sent: shop does not answer. 3 calls in a row have failed, the last "
        f"with {type(error).__name__}: {error}; another call is sent in 20.0 s"
    )
    assert isinstance(caught.value, ServiceUnavailable)


async def test_an_answer_between_them_starts_the_count_again(clock: Clock) -> None:
    breaks = breaker(failures=2)
    for answer in (None, RemoteError("ValueError", "boom"), LookupError("registered")):
        assert await outcome(breaks, LATE) == "sent"
        assert await outcome(breaks, answer) in ("ok", "sent")
    for other in (ConnectionLost("lost"), asyncio.CancelledError()):  # they say nothing
        assert await outcome(breaks, other) == "sent"
    assert [await outcome(breaks, LATE) for _ in range(3)] == ["sent", "sent", "CircuitOpen"]


async def test_one_call_probes_a_service_that_may_answer_again(clock: Clock) -> None:
    breaks = breaker(failures=1, open_for=30)
    release = asyncio.Event()

    async def slow(call: Call) -> str:
        await release.wait()
        return "ok"

    assert await outcome(breaks, LATE) == "sent"
    clock.now += 30
    assert await outcome(breaks, LATE) == "sent"  # the probe fails
    assert await outcome(breaks, None) == "CircuitOpen"
    clock.now += 30
    probe = asyncio.create_task(breaks(Call("shop", "quote"), slow))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpen, match="a call is on its way, to see whether it answers again"):
        await breaks(Call("shop", "quote"), slow)
    release.set()
    assert await probe == "ok"
    assert await outcome(breaks, None) == "ok"


async def test_a_cancelled_probe_leaves_the_next_call_to_probe(clock: Clock) -> None:
    breaks = breaker(failures=1, open_for=30)
    assert await outcome(breaks, LATE) == "sent"
    clock.now += 30
    assert await outcome(breaks, asyncio.CancelledError()) == "sent"
    assert await outcome(breaks, None) == "ok"


async def test_a_call_that_was_sent_before_the_circuit_opened_changes_nothing(
    clock: Clock,
) -> None:
    breaks = breaker(failures=1, open_for=30)
    release = asyncio.Event()

    async def slow(call: Call) -> str:
        await release.wait()
        return "ok"

    early = asyncio.create_task(breaks(Call("shop", "quote"), slow))
    await asyncio.sleep(0)
    assert await outcome(breaks, LATE) == "sent"
    release.set()
    assert await early == "ok"
    assert await outcome(breaks, None) == "CircuitOpen"


async def test_only_the_calls_of_callers_and_of_chosen_services_have_a_circuit() -> None:
    breaks = breaker(failures=1, services=["shop*"])
    assert await outcome(breaks, LATE, "other") == "sent"
    assert await outcome(breaks, None, "other") == "ok"

    async def fails(call: Call) -> None:
        raise LATE

    for call in (Call("shop", "quote", id="shop.quote.1"), Call("shop", "sold", kind="event")):
        with pytest.raises(RpcTimeout):
            await breaks(call, fails)
    assert await outcome(breaks, None) == "ok"


@pytest.mark.parametrize("options", [{"failures": 0}, {"open_for": "x"}, {"services": "shop"}])
def test_an_option_with_a_wrong_value_is_an_error(options: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{next(iter(options))} of breaker\(\) must be"):
        breaker(**options)


async def test_a_service_that_comes_back_is_called_again(broker_config: dict[str, Any]) -> None:
    class Service:
        name = f"service_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            return "ok"

    options = {"failures": 2, "open_for": 0.001}
    config = {**broker_config, "MIDDLEWARE": [{"aiorpc.middleware.breaker:breaker": options}]}
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        method = cluster[Service.name].method
        for _ in range(2):
            with pytest.raises(UnknownService):
                await method()
        async with ServiceContainer(Service, broker_config):
            async with asyncio.timeout(5):
                while True:
                    try:
                        assert await method() == "ok"
                        break
                    except CircuitOpen:
                        await asyncio.sleep(0)

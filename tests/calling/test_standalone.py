"""Calls and events from outside any service: starts that fail, and closing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    ConnectionLost,
    ContextData,
    ServiceContainer,
    ServiceRpcProxy,
    UnserializableValueError,
    event_dispatcher,
    event_handler,
    rpc,
    sync,
)
from aiorpc.calling import standalone
from aiorpc.testing import faults
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import Transport
from tests.support.amqp_proxy import proxied
from tests.support.waiting import eventually


@pytest.fixture
def closed_port() -> str:
    """The URL of a port that is not open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"amqp://guest:guest@127.0.0.1:{free.getsockname()[1]}/"


@contextlib.asynccontextmanager
async def cluster_of(config: Any) -> AsyncIterator[None]:
    async with ClusterRpcProxy(config):
        yield


@contextlib.asynccontextmanager
async def service_of(config: Any) -> AsyncIterator[None]:
    async with ServiceRpcProxy("service_x", config):
        yield


@contextlib.asynccontextmanager
async def dispatcher_of(config: Any) -> AsyncIterator[None]:
    async with event_dispatcher(config):
        yield


ALL = pytest.mark.parametrize("opened", [cluster_of, service_of, dispatcher_of])


@ALL
async def test_a_start_waits_for_a_broker_that_is_down_and_then_names_it(
    opened: Any, closed_port: str
) -> None:
    before = asyncio.all_tasks()
    begun = time.monotonic()
    with pytest.raises(ConnectionLost, match=r"amqp://guest:\*\*\*@127\.0\.0\.1"):
        async with opened({"AMQP_URI": closed_port, "RPC_TIMEOUT": 0.3}):
            pass
    assert 0.2 < time.monotonic() - begun < 3
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@ALL
async def test_a_start_does_not_wait_with_wrong_credentials(opened: Any, rabbitmq_uri: str) -> None:
    wrong = "amqp://nobody:secret-word@" + rabbitmq_uri.partition("@")[2]
    begun = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"nobody") as error:
        async with opened(wrong):
            pass
    assert time.monotonic() - begun < 5
    assert "secret-word" not in str(error.value)


async def test_a_proxy_whose_start_failed_can_be_closed(closed_port: str) -> None:
    proxy = ClusterRpcProxy(closed_port, timeout=0.1)
    with pytest.raises(ConnectionLost):
        await proxy.start()
    await proxy.aclose()
    await proxy.aclose()


async def test_a_start_that_failed_may_be_tried_again(rabbitmq_uri: str) -> None:
    async with proxied(rabbitmq_uri) as proxy:
        proxy.muted = True
        calling = ClusterRpcProxy(f"{proxy.url}?connect_timeout=0.2", timeout=0.3)
        with pytest.raises(ConnectionLost):
            await calling.start()
        proxy.muted = False
        await calling.start()
        await calling.aclose()


async def test_a_start_is_bounded_when_the_broker_falls_silent_after_the_handshake(
    rabbitmq_uri: str,
) -> None:
    async with proxied(rabbitmq_uri) as proxy:
        calling = ClusterRpcProxy(proxy.url, timeout=0.5)

        async def fall_silent() -> None:
            while b"\x00\x28\x00\x0a" not in proxy.sent[8:]:  # exchange.declare
                await asyncio.sleep(0)
            proxy.muted = True

        silence = asyncio.create_task(fall_silent())
        begun = time.monotonic()
        with pytest.raises(ConnectionLost, match="no queue for replies"):
            await calling.start()
        assert time.monotonic() - begun < 10
        await silence


async def test_a_proxy_of_another_loop_says_so_at_once() -> None:
    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        method = cluster.service.method

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await method()
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                method.call_async()

        await asyncio.to_thread(asyncio.run, elsewhere())
        with pytest.raises(RuntimeError, match=r"from_thread\.run"):
            await asyncio.to_thread(method.call_async)


async def test_start_and_aclose_work_without_a_with_block() -> None:
    proxy = ClusterRpcProxy("memory://")
    cluster = await proxy.start()
    with pytest.raises(RuntimeError, match="this ClusterRpcProxy is open already: use the proxy"):
        await proxy.start()
    await proxy.aclose()
    await proxy.stop()
    with pytest.raises(ConnectionLost, match=r"service\.method was not sent: the client is closed"):
        await cluster.service.method()


async def test_a_proxy_can_be_entered_again_after_its_end_but_not_inside(
    broker_config: dict[str, Any],
) -> None:
    class Echo:
        name = f"echo_{uuid.uuid4().hex[:8]}"

        @rpc
        async def say(self, value: int) -> int:
            return value

    proxy = ServiceRpcProxy(Echo.name, broker_config, timeout=5)
    async with ServiceContainer(Echo, broker_config):
        for number in range(3):
            async with proxy as echo:
                assert await echo.say(number) == number
                with pytest.raises(RuntimeError, match="this ServiceRpcProxy is open already"):
                    async with proxy:
                        pass
                assert await echo.say(number) == number
            assert not proxy.health().ok


async def test_closing_a_proxy_fails_the_calls_that_wait() -> None:
    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}

    class Hanging:
        name = "hanging"

        @rpc
        async def method(self) -> None:
            await asyncio.Event().wait()

    async with ServiceContainer(Hanging, {**config, "SHUTDOWN_TIMEOUT": 0}):
        proxy = ClusterRpcProxy(config)
        reply = (await proxy.start()).hanging.method.call_async()
        await proxy.aclose()
        with pytest.raises(ConnectionLost, match=r"hanging\.method failed after .* was closed"):
            await reply


# Events


class Listener:
    name = "listener"
    language = ContextData("language")
    heard: asyncio.Queue[tuple[Any, Any]]

    @event_handler("source", "happened")
    async def handle(self, payload: Any) -> None:
        self.heard.put_nowait((payload, self.language))


async def test_events_are_heard_with_their_context_data(broker_config: dict[str, Any]) -> None:
    Listener.heard = asyncio.Queue()
    async with (
        ServiceContainer(Listener, broker_config),
        event_dispatcher(broker_config, context_data={"language": "fi"}) as dispatch,
    ):
        await dispatch("source", "happened", {"id": 1})
        assert await asyncio.wait_for(Listener.heard.get(), 5) == ({"id": 1}, "fi")
        await dispatch("source", "nobody_listens")
        await dispatch("a_service_that_never_ran", "happened")


@pytest.fixture
def opened_transports(monkeypatch: pytest.MonkeyPatch) -> list[Transport]:
    """The transports that proxies and dispatchers of the test have opened."""
    opened: list[Transport] = []

    def open_and_remember(*args: Any, **kwargs: Any) -> Transport:
        opened.append(open_transport(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(standalone, "open_transport", open_and_remember)
    return opened


async def test_an_event_in_flight_when_the_connection_breaks_is_re_sent(
    broker_config: dict[str, Any], opened_transports: list[Transport]
) -> None:
    Listener.heard = asyncio.Queue()
    async with (
        ServiceContainer(Listener, broker_config),
        event_dispatcher(broker_config) as dispatch,
    ):
        await dispatch("source", "happened", 1)
        dispatching = asyncio.create_task(dispatch("source", "happened", 2))
        await asyncio.sleep(0)
        with faults.drop_connection(opened_transports[0]):
            pass
        await asyncio.wait_for(dispatching, 10)
        heard = [(await asyncio.wait_for(Listener.heard.get(), 10))[0] for _ in range(2)]
        assert heard == [1, 2]


async def test_a_payload_that_cannot_be_sent_is_reported_before_anything_is_declared() -> None:
    async with event_dispatcher("memory://") as dispatch:
        with pytest.raises(UnserializableValueError):
            await dispatch("source", "happened", object())


async def test_dispatching_while_the_broker_is_away_is_bounded(
    opened_transports: list[Transport],
) -> None:
    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}", "RPC_TIMEOUT": 0.1}
    async with event_dispatcher(config) as dispatch:
        await dispatch("known", "happened")
        (transport,) = opened_transports
        restore = cut(transport)
        with pytest.raises(ConnectionLost):
            await dispatch("known", "happened")
        with pytest.raises(ConnectionLost, match=r"source\.events could not be declared"):
            await dispatch("source", "happened")
        restore()
        await dispatch("source", "happened")


async def test_health_of_a_proxy_follows_its_connection() -> None:
    proxy = ClusterRpcProxy(f"memory://{uuid.uuid4().hex}")
    assert not proxy.health().ok
    cluster = await proxy.start()
    assert proxy.health().ok
    with faults.drop_connection(cluster):
        await eventually(lambda: not proxy.health().ok)
    await eventually(lambda: proxy.health().ok)
    await proxy.aclose()
    (problem,) = proxy.health().problems
    assert "ClusterRpcProxy is not connected to memory://" in problem


@pytest.mark.parametrize(
    "proxy", [ClusterRpcProxy("memory://"), ServiceRpcProxy("service_x", "memory://")]
)
def test_a_forgotten_async_with_names_the_remedy(proxy: Any) -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'service_x': .*`async with .*start\(\)"
    ):
        _ = proxy.service_x
    named = r"needs `async with`, .*aiorpc\.sync\.ClusterRpcProxy"
    with pytest.raises(TypeError, match=named), proxy:
        pass
    assert not hasattr(proxy, "service_x")


async def test_the_sync_proxy_names_the_remedy_too() -> None:
    proxy: Any = sync.ClusterRpcProxy("memory://")
    with pytest.raises(AttributeError, match=r"no attribute 'service_x': .*`with ClusterRpcProxy"):
        _ = proxy.service_x
    with pytest.raises(TypeError, match=r"needs `with`; .*aiorpc\.ClusterRpcProxy"):
        async with proxy:
            pass

"""Public constructors, decorators and calls name a wrong argument, and what it must be."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    ContextData,
    EventDispatcher,
    Exchange,
    Publisher,
    Queue,
    RpcProxy,
    ServiceContainer,
    ServiceRpcProxy,
    ServiceRunner,
    UnserializableValueError,
    deserialize_to_instance,
    event_dispatcher,
    event_handler,
    rpc,
    serve,
    timer,
)

#: Too large for a float, and for Python to print.
HUGE = 10**5000
LONG = "x" * 256
URL = "memory://checks"


class Service:
    name = "service"
    publish = Publisher()

    @rpc
    async def method(self) -> None: ...


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: timer(HUGE), "interval of timer() must be a number of seconds above 0 and below"),
        (lambda: timer(float("inf")), "@timer(interval=60), got inf (float)"),
        (lambda: timer(True), "interval of timer() must be a number of seconds"),
        (lambda: event_handler("", "b"), "source_service of event_handler("),
        (lambda: event_handler("a", LONG), "event_type of event_handler("),
        (lambda: Queue("q", durable="yes"), "durable of Queue('q') must be True or False, got 'y"),
        (lambda: Queue("q", expires="5"), "expires of Queue('q') must be a number of seconds"),
        (lambda: Queue("q", expires=0), "from 0.001 to 4294967, or None, got 0 (int)"),
        (lambda: Queue("q", arguments=[1]), "arguments of Queue('q') must be a mapping of str"),
        (lambda: Queue("q", arguments={1: 2}), "arguments of Queue('q') must be a mapping of str"),
        (lambda: Queue("q", arguments={"x": [{"y": object()}]}), "arguments of Queue('q') must"),
        (lambda: Queue("q", arguments={"x": 1 << 63}), "arguments of Queue('q') must"),
        (lambda: Queue("q", arguments={"x": float("nan")}), "arguments of Queue('q') must"),
        (lambda: Queue("q", routing_key=5), "the binding key of a queue is a str, not a int"),
        (lambda: Exchange("e", "topics"), "type of Exchange('e') must be topic, direct, fanout"),
        (lambda: Exchange("e", auto_delete=1), "auto_delete of Exchange('e') must be True or"),
        (lambda: RpcProxy(5), "service of RpcProxy() must be the class of a service, or a name"),
        (lambda: RpcProxy(LONG), "a str of 1 to 255 bytes, got 'xxx"),
        (lambda: RpcProxy("a", timeout="3"), "timeout of RpcProxy() must be a number of seconds"),
        (lambda: RpcProxy("a", priority=256), "priority of RpcProxy() must be a whole number from"),
        (lambda: RpcProxy("a", headers={1: 2}), "headers of RpcProxy() must be a mapping whose"),
        (lambda: RpcProxy("a", confirm="x"), "confirm of RpcProxy() must be True or False, got"),
        (lambda: ContextData(5), "key of ContextData() must be a str, or None, got 5 (int)"),
        (lambda: Publisher(priority=300), "must be a whole number from 0 to 255, got 300 (int)"),
        (lambda: Publisher(priority=HUGE), "from 0 to 255, got a value of type int"),
        (lambda: Publisher(expiration=0), "expiration of Publisher() must be a number of seconds"),
        (lambda: Publisher(timestamp=5), "timestamp of Publisher() must be a datetime, or None"),
        (lambda: Publisher(message_id=LONG), "... (str of 256 characters)"),
        (lambda: Publisher(type="\ud800"), "type of Publisher() must be a str of at most 255"),
        (lambda: Publisher(routing_key=5), "routing_key of Publisher() must be a str of at most"),
        (lambda: Publisher(declare=Queue("q")), "declare of Publisher() must be a list of exch"),
        (lambda: EventDispatcher(mandatory="yes"), "mandatory of EventDispatcher() must be True"),
        (lambda: ClusterRpcProxy(URL, context_data="x"), "context_data of ClusterRpcProxy() must"),
        (lambda: ClusterRpcProxy(URL, timeout="x"), "timeout of ClusterRpcProxy() must be a num"),
        (lambda: ClusterRpcProxy(URL, middleware=5), "middleware of ClusterRpcProxy() must be a"),
        (lambda: ServiceRpcProxy(Service, URL), "service of ServiceRpcProxy() must be a name"),
        (lambda: ServiceContainer(Service, URL, middleware=[5]), "a list of functions, got 5 (int"),
        (lambda: ServiceRunner(5, config=URL), "a service is a class, not a value of type int"),
        (lambda: deserialize_to_instance(5), "a value of type int cannot be raised by a call"),
        (lambda: deserialize_to_instance("x")(ValueError), "'x' is not the import path of a class"),
    ],
)
def test_a_wrong_argument_of_a_declaration_is_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Queue("q", max_length=5), "write arguments={'x-max-length': ...}. Its options: "),
        (lambda: Queue("q", exclusiv=True), " (did you mean 'exclusive'?). Its options: accept_ex"),
        (lambda: Exchange("e", delivery_mode=2), "Exchange() has no option 'delivery_mode': write"),
        (lambda: Queue(), "missing 1 required positional argument: 'name'"),
    ],
)
def test_an_unknown_option_of_a_queue_or_an_exchange_names_the_others(
    make: Callable[[], Any], said: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(said)):
        make()


def test_the_type_of_an_exchange_may_come_from_a_plugin() -> None:
    assert Exchange("e", "x-delayed-message").type == "x-delayed-message"
    assert Queue("q", arguments={"x-max-length": 5, "list": [1, None, {"a": b"b"}]}).expires is None


async def test_a_wrong_argument_of_a_call_an_event_or_a_message_is_named() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    config = {"AMQP_URI": url}

    class Sender:
        name = "sender"
        publish = Publisher()

        @rpc
        async def send(self) -> None:
            with pytest.raises(ConfigurationError, match=r"^priority of publish\(\) must be a"):
                await self.publish(1, priority=-1)
            with pytest.raises(UnserializableValueError, match="routing key is a str, not a int"):
                await self.publish(1, routing_key=5)

    async def refused(error: type[Exception], said: str, call: Callable[[], Any]) -> None:
        with pytest.raises(error, match=re.escape(said)):
            await call()

    async def dispatches(**options: Any) -> None:
        async with event_dispatcher(url, **options):
            pass

    wrong = ConfigurationError
    async with (
        ServiceContainer(Sender, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
        event_dispatcher(config) as dispatch,
    ):
        method: Any = cluster.sender.send
        await method()
        with_options = method.with_options
        await refused(wrong, "priority of with_options()", lambda: with_options(priority=300)())
        await refused(wrong, "persistent of with_opt", lambda: with_options(persistent=1)())
        await refused(wrong, "priority of dispatch()", lambda: dispatch("a", "b", 1, priority=300))
        await refused(wrong, "type of dispatch() must", lambda: dispatch("a", "b", 1, type=LONG))
        await refused(TypeError, "name of its service, a str", lambda: dispatch(5, "b", 1))
        await refused(TypeError, "a remote name is a str, not a int", lambda: cluster[5].method())
    await refused(wrong, "context_data of event_disp", lambda: dispatches(context_data=5))
    await refused(wrong, "priority of event_dispatcher()", lambda: dispatches(priority=300))
    await refused(wrong, "a service is a class, not", lambda: serve(5, config=url))

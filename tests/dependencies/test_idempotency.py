"""
Idempotency keys: what travels with a call, what a second call gets, and the store in memory. Over
both transports where the transport matters.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    BadArguments,
    Call,
    ClusterRpcProxy,
    ConfigurationError,
    DependencyProvider,
    Handler,
    InMemoryIdempotency,
    InProgress,
    RemoteError,
    RpcProxy,
    ServiceContainer,
    WorkerContext,
    rpc,
    sync,
)
from aiorpc.dependencies import idempotency
from aiorpc.testing import replace_dependencies
from aiorpc.wire.keys import digest_of

RUNS: list[Any] = []
GATES: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def fresh() -> None:
    RUNS.clear()
    GATES.clear()


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


class Commits(DependencyProvider[None]):
    """Fails to close when the method asks for that."""

    fails = False

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
        yield
        if Commits.fails:
            Commits.fails = False
            raise OSError("the commit failed")


class SoldOut(Exception):
    pass


class Shop:
    name = "shop"
    commits = Commits()
    idempotency = InMemoryIdempotency()
    other = RpcProxy("shop")

    @rpc(idempotent=True)
    async def buy(self, title: str, copies: int = 1) -> dict[str, Any]:
        RUNS.append((title, copies))
        if gate := GATES.get(title):
            await gate.wait()
        return {"number": len(RUNS), "key": self.idempotency}

    @rpc(SoldOut, idempotent=True, sensitive_arguments="secret")
    async def fail(self, kind: str, secret: str = "") -> None:
        RUNS.append(kind)
        raise SoldOut(kind, secret) if kind == "expected" else LookupError(kind)

    @rpc(idempotent=True)
    async def buy_elsewhere(self, title: str) -> Any:
        first = await self.other.buy.with_options(idempotency_key="inside")(title)
        return [first, await self.other.buy(title)]

    @rpc
    async def plain(self) -> str:
        RUNS.append("plain")
        return "plain"

    @rpc
    async def stream(self) -> AsyncGenerator[int]:
        yield 1


class Keeping(Shop):
    """Keeps expected errors."""

    name = "keeping"
    other = RpcProxy("keeping")
    idempotency = InMemoryIdempotency(store_errors=True)


async def test_calls_with_one_key_run_once(broker_config: dict[str, Any]) -> None:
    config = broker_config
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        typed = cluster.typed(Shop)
        one = cluster.shop.buy.with_options(idempotency_key="one")
        first = await one("Emma")
        assert first == {"number": 1, "key": "one"}
        assert await one(title="Emma") == first
        assert await one.call_async("Emma") == first
        assert await typed.buy.with_options(idempotency_key="one")("Emma") == first
        scoped = one.with_options(scope="a user")
        assert await scoped("Emma") == {"number": 2, "key": "one"}
        assert await scoped.with_options(scope="another")("Emma") == {"number": 3, "key": "one"}
        assert await cluster.shop.buy("Emma") == {"number": 4, "key": None}
        assert await one("Emma") == first
    assert len(RUNS) == 4


async def test_a_key_means_one_method(config: dict[str, Any]) -> None:
    async with ServiceContainer(Keeping, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(RemoteError):
            await cluster.keeping.fail.with_options(idempotency_key="k")("expected")
        answer = await cluster.keeping.buy.with_options(idempotency_key="k")("expected")
    assert answer["number"] == 2


async def test_other_arguments_under_one_key_are_refused(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        one = cluster.shop.buy.with_options(idempotency_key="one")
        await one("Emma")
        with pytest.raises(BadArguments, match="the idempotency key 'one' was used with other arg"):
            await one("Persuasion")
        with pytest.raises(BadArguments):
            await one("Emma", copies=2)
    assert len(RUNS) == 1
    assert "Traceback" not in caplog.text


async def test_a_call_waits_for_the_first_call_with_its_key(config: dict[str, Any]) -> None:
    GATES["Emma"] = asyncio.Event()
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        one = cluster.shop.buy.with_options(idempotency_key="one")
        replies = [one.call_async("Emma") for _ in range(20)]
        with pytest.raises(InProgress, match="the first call with the idempotency key 'one' still"):
            await one.with_options(timeout=0.3)("Emma")
        with pytest.raises(BadArguments):
            await one("Persuasion")
        GATES["Emma"].set()
        assert [await reply for reply in replies] == [{"number": 1, "key": "one"}] * 20
    assert len(RUNS) == 1


async def test_a_nested_call_in_progress_is_an_error_of_the_method(config: dict[str, Any]) -> None:
    GATES["Emma"] = asyncio.Event()
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        inside = cluster.shop.buy.with_options(idempotency_key="inside").call_async("Emma")
        with pytest.raises(RemoteError, match="InProgress"):
            await cluster.shop.buy_elsewhere.with_options(timeout=0.4)("Emma")
        GATES["Emma"].set()
        await inside


async def test_an_error_forgets_the_key(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        fail = cluster.shop.fail.with_options(idempotency_key="one")
        for kind in ("expected", "expected", "unexpected"):
            with pytest.raises(RemoteError):
                await fail(kind)
        assert RUNS == ["expected", "expected", "unexpected"]
        buy = cluster.shop.buy.with_options(idempotency_key="one")
        Commits.fails = True
        with pytest.raises(RemoteError, match="the commit failed"):
            await buy("Emma")
        assert (await buy("Emma"))["number"] == 5


async def test_a_cancelled_call_forgets_its_key_and_another_runs(config: dict[str, Any]) -> None:
    gate = GATES["Emma"] = asyncio.Event()
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        one = cluster.shop.buy.with_options(idempotency_key="one")
        first = one.call_async("Emma")
        others = [one.call_async("Emma") for _ in range(3)]
        await cluster.shop.plain()  # the others have begun to wait
        first.cancel()
        gate.set()
        assert {(await reply)["number"] for reply in others} == {3}
    assert RUNS == [("Emma", 1), "plain", ("Emma", 1)]


async def test_an_expected_error_can_be_kept(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(Keeping, config), ClusterRpcProxy(config) as cluster:
        fail = cluster.keeping.fail.with_options(idempotency_key="one")
        raised = []
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                await fail("expected", secret="hunter2")
            error = caught.value
            raised.append((error.exc_type, error.exc_args, error.value, error.exc_path))
        assert raised[0] == raised[1]
        assert raised[0][:2] == ("SoldOut", ("expected", "***"))
        assert RUNS == ["expected"]
        with pytest.raises(RemoteError, match="LookupError"):
            await fail.with_options(idempotency_key="two")("unexpected")
        with pytest.raises(RemoteError, match="LookupError"):
            await fail.with_options(idempotency_key="two")("unexpected")
    assert RUNS == ["expected", "unexpected", "unexpected"]
    levels = [each.levelno for each in caplog.records if "raised" in each.message]
    assert levels == [logging.WARNING] * 2 + [logging.ERROR] * 2
    assert "hunter2" not in caplog.text


async def test_calls_inside_a_call_do_not_inherit_its_key(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        elsewhere = cluster.shop.buy_elsewhere.with_options(idempotency_key="outer")
        answer = await elsewhere("Emma")
    assert answer == [{"number": 1, "key": "inside"}, {"number": 2, "key": None}]


async def test_the_copy_of_a_key_that_nameko_sends_on_is_ignored(config: dict[str, Any]) -> None:
    seen: list[Any] = []

    async def look(call: Call, handler: Handler) -> Any:
        seen.append(call.context.data)
        return await handler(call)

    headers = {"nameko.aiorpc-idempotency-key": "hop", "nameko.aiorpc-idempotency-scope": "x"}
    async with (
        ServiceContainer(Shop, config, middleware=[look]),
        ClusterRpcProxy(config) as cluster,
    ):
        assert await cluster.shop.plain.with_options(headers=headers)() == "plain"
        answer = await cluster.shop.buy.with_options(headers=headers)("Emma")
        assert answer["key"] is None
        await cluster.shop.buy.with_options(idempotency_key="k", scope="s")("Emma")
    assert seen == [{}, {}, {}]


async def test_a_key_for_another_method_is_an_error_of_the_caller(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(BadArguments, match=r"shop.plain is not idempotent, .*without idempot"):
            await cluster.shop.plain.with_options(idempotency_key="one")()
        stream = cluster.shop["stream"].with_options(idempotency_key="one")
        with pytest.raises(BadArguments, match="is not idempotent"):
            async for _ in stream.stream():
                pass
    assert RUNS == []


@pytest.mark.parametrize("key", ["", "x" * 256, "with\x00nul", 7, b"bytes"])
async def test_a_wrong_key_is_refused(config: dict[str, Any], key: Any) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        for option in ("idempotency_key", "scope"):
            with pytest.raises(ConfigurationError, match="1 to 255 printable characters"):
                cluster.shop.buy.with_options(**{option: key})
        headers = {"aiorpc-idempotency-key": key}
        with pytest.raises(BadArguments, match=r"1 to 255 printable characters, got .*: send an"):
            await cluster.shop.buy.with_options(headers=headers)("Emma")


async def test_a_middleware_that_changes_arguments_does_not_change_what_was_asked(
    config: dict[str, Any],
) -> None:
    async def numbered(call: Call, handler: Handler) -> Any:
        return await handler(call.replace(kwargs={"copies": len(RUNS) + 5}))

    async with (
        ServiceContainer(Shop, config, middleware=[numbered]),
        ClusterRpcProxy(config) as cluster,
    ):
        one = cluster.shop.buy.with_options(idempotency_key="one")
        assert await one("Emma") == await one("Emma") == {"number": 1, "key": "one"}
    assert RUNS == [("Emma", 5)]


async def test_an_answer_is_kept_for_callers_with_another_serializer(
    config: dict[str, Any],
) -> None:
    config = {**config, "ACCEPT": ["json", "msgpack"]}
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        one = cluster.shop.buy.with_options(idempotency_key="one")
        first = await one("Emma")
        assert await one.with_options(serializer="msgpack")(title="Emma") == first
        two = one.with_options(idempotency_key="two", serializer="msgpack")
        assert await two("Emma") == await two.with_options(serializer="json")("Emma")
    assert len(RUNS) == 2


async def test_answers_expire_and_the_oldest_go_first(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(idempotency, "now", lambda: clock[0])

    class Small(Shop):
        name = "small"
        idempotency = InMemoryIdempotency(retention=10, max_answers=2)

    async with ServiceContainer(Small, config), ClusterRpcProxy(config) as cluster:

        async def buy(key: str) -> int:
            answer = await cluster.small.buy.with_options(idempotency_key=key)("Emma")
            number: int = answer["number"]
            return number

        assert [await buy(key) for key in "aabbaacca"] == [1, 1, 2, 2, 1, 1, 3, 3, 4]
        clock[0] += 10
        assert await buy("c") == 5


async def test_containers_of_one_process_share_the_keys_while_one_of_them_runs(
    config: dict[str, Any],
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        one = cluster.shop.buy.with_options(idempotency_key="one")
        async with ServiceContainer(Shop, config):
            assert {(await one("Emma"))["number"] for _ in range(4)} == {1}
        assert (await one("Emma"))["number"] == 1
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        assert (await cluster.shop.buy.with_options(idempotency_key="one")("Emma"))["number"] == 2


async def test_a_synchronous_caller_has_keys_too(rabbitmq_uri: str) -> None:
    class Remote(Shop):
        name = f"shop_{uuid.uuid4().hex[:8]}"
        other = RpcProxy("nobody")

    def twice() -> list[Any]:
        with sync.ClusterRpcProxy(rabbitmq_uri) as cluster:
            one = cluster[Remote.name].buy.with_options(idempotency_key="one", scope="me")
            return [one("Emma"), one("Emma")]

    async with ServiceContainer(Remote, rabbitmq_uri):
        assert await asyncio.to_thread(twice) == [{"number": 1, "key": "one"}] * 2


async def test_an_idempotent_method_without_a_store_is_an_error_at_start(
    config: dict[str, Any],
) -> None:
    class Without:
        name = "without"

        @rpc(idempotent=True)
        async def buy(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"buy is idempotent.*SqlIdempotency\(Base\) of"):
        async with ServiceContainer(Without, config):
            pass


async def test_idempotent_streams_and_at_most_once_are_errors(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match='leave out delivery="at_most_once"'):
        rpc(idempotent=True, delivery="at_most_once")

    class Streams(Shop):
        name = "streams"

        @rpc(idempotent=True)
        async def items(self) -> AsyncGenerator[int]:
            yield 1

    with pytest.raises(ConfigurationError, match=r"Streams.items is a stream, and no store keeps"):
        async with ServiceContainer(Streams, config):
            pass


async def test_a_test_can_replace_the_store(config: dict[str, Any]) -> None:
    container = ServiceContainer(Shop, config)
    replace_dependencies(container, idempotency="a key")
    async with container, ClusterRpcProxy(config) as cluster:
        one = cluster.shop.buy.with_options(idempotency_key="one")
        assert [await one("Emma"), await one("Emma")] == [
            {"number": 1, "key": "a key"},
            {"number": 2, "key": "a key"},
        ]


def test_the_digest_of_arguments_depends_on_their_values_only() -> None:
    names = ["a", "b"]
    same = digest_of(names, [1, {"x": 1, "y": [2]}], {})
    assert digest_of(names, [1], {"b": {"y": [2], "x": 1}}) == same
    assert digest_of(names, (1, {"x": 1, "y": (2,)}), {}) == same
    others = [
        digest_of(names, [1, {"x": 1, "y": [3]}], {}),
        digest_of(names, [1, {"x": 1, "y": [2]}, 3], {}),
        digest_of(names, [1], {}),
        digest_of(names, ["\udc80"], {}),
        digest_of(names, ["\udc81"], {}),
    ]
    assert len({same, *others}) == 6

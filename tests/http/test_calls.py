"""HTTP is an entrypoint like others: workers, dependencies, deadlines, middleware, context data."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from aiorpc import (
    Call,
    ContextData,
    Handler,
    RpcProxy,
    RpcTimeout,
    event_handler,
    rpc,
)
from aiorpc.context import current
from aiorpc.http import HttpCall, HttpEntrypoint, HttpRequest, http
from aiorpc.testing import entrypoint_waiter
from tests.support.http import connected, serving


class Inner:
    name = "inner"
    trace = ContextData("traceparent")
    user = ContextData("user")

    @rpc
    async def seen(self) -> dict[str, Any]:
        context = current.get()
        deadline = context.deadline
        return {
            "data": dict(context.data),
            "left": None if deadline is None else deadline.remaining(),
            "stack": len(context.call_id_stack),
        }


class Mapping_(HttpEntrypoint):
    def context_data_from_headers(self, request: HttpRequest) -> Mapping[str, Any]:
        return {"user": request.headers["x-user"]}


class Outer:
    name = "outer"
    inner = RpcProxy("inner", timeout=None)

    @http("GET", "/plain")
    async def plain(self) -> Any:
        return await self.inner.seen()

    @Mapping_.decorator("GET", "/mapped")
    async def mapped(self) -> Any:
        return await self.inner.seen()

    @http("GET", "/bounded", timeout=5)
    async def bounded(self) -> Any:
        return await self.inner.seen()

    @http("GET", "/slow", timeout=0.05)
    async def slow(self) -> None:
        await asyncio.Event().wait()

    @http("GET", "/missing")
    async def missing(self) -> None:
        await self.inner.a_method_that_is_missing()

    @http("GET", "/nested", timeout=5)
    async def nested(self) -> None:
        raise RpcTimeout("inner.seen did not answer on host secret-host")


async def test_headers_of_a_trace_travel_on_and_no_others() -> None:
    headers = {
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "a=1",
        "baggage": "b=2",
        "x-user": "ada",
        "authorization": "Bearer secret",
    }
    async with serving(Inner, Outer) as (_, client):
        plain = (await client.get("/plain", headers=headers)).json()
        mapped = (await client.get("/mapped", headers=headers)).json()
        bare = (await client.get("/plain")).json()
    trace = {name: headers[name] for name in ("traceparent", "tracestate", "baggage")}
    assert plain == {"data": trace, "left": None, "stack": 2}
    assert mapped["data"] == {**trace, "user": "ada"}
    assert bare["data"] == {}


@pytest.mark.parametrize(
    ("path", "headers", "most"),
    [
        ("/plain", {}, None),
        ("/plain", {"Connect-Timeout-Ms": "4000"}, 4),
        ("/plain", {"grpc-timeout": "3S"}, 3),
        ("/bounded", {}, 5),
        ("/bounded", {"Connect-Timeout-Ms": "2000"}, 2),
        ("/bounded", {"Connect-Timeout-Ms": "60000"}, 5),
    ],
)
async def test_the_deadline_of_a_client_only_shortens_ours(
    path: str, headers: dict[str, str], most: float | None
) -> None:
    async with serving(Inner, Outer) as (_, client):
        left = (await client.get(path, headers=headers)).json()["left"]
    if most is None:
        assert left is None
    else:
        assert most - 1 < left <= most


@pytest.mark.parametrize("headers", [{"Connect-Timeout-Ms": "soon"}, {"grpc-timeout": "5"}])
async def test_a_deadline_in_another_form_is_refused(headers: dict[str, str]) -> None:
    async with serving(Inner, Outer) as (_, client):
        response = await client.get("/plain", headers=headers)
    assert response.status_code == 400
    assert next(iter(headers)) in response.json()["detail"]


async def test_a_method_past_its_deadline_is_answered_with_504() -> None:
    async with serving(Inner, Outer) as (_, client):
        slow = await client.get("/slow")
        expired = await client.get("/plain", headers={"Connect-Timeout-Ms": "0"})
        nested = await client.get("/nested")
    assert (slow.status_code, slow.json()["code"]) == (504, "deadline_exceeded")
    assert expired.status_code == 504
    assert nested.status_code == 504
    assert "secret-host" not in nested.text


async def test_a_method_that_another_service_lacks_is_no_404_of_this_path() -> None:
    async with serving(Inner, Outer) as (_, client):
        response = await client.get("/missing")
    assert response.status_code == 500
    assert "a_method_that_is_missing" not in response.json()["detail"]


async def test_middleware_sees_the_request_and_may_answer_for_the_method() -> None:
    seen: list[tuple[str, str, str]] = []

    async def check(call: Call, handler: Handler) -> Any:
        if isinstance(call, HttpCall) and call.request is not None:
            seen.append((str(call), call.kind, call.request.method))
            if "x-user" not in call.request.headers:
                return 401, {"WWW-Authenticate": "Basic"}, "who are you?"
        result = await handler(call)
        return {"wrapped": result} if call.method == "plain" else result

    async with serving(Inner, Outer, middleware=[check]) as (_, client):
        refused = await client.get("/plain")
        wrapped = await client.get("/plain", headers={"x-user": "ada"})
    assert (refused.status_code, refused.text) == (401, "who are you?")
    assert refused.headers["www-authenticate"] == "Basic"
    assert wrapped.json()["wrapped"]["stack"] == 2
    assert seen[0] == ("outer.plain", "http", "GET")


async def test_a_refused_request_passes_the_middleware_which_may_answer_it() -> None:
    seen: list[tuple[str, str, str]] = []

    class Counting:
        name = "counting"

        @http("GET", "/count")
        async def count(self, number: int) -> int:
            return number

    async def check(call: Call, handler: Handler) -> Any:
        assert isinstance(call, HttpCall)
        assert call.request is not None
        try:
            return await handler(call)
        except Exception as error:
            seen.append((f"{call.side} {call}", call.context.data["traceparent"], str(error)))
            if "x-forgive" in call.request.headers:
                return {"number": 0}
            raise

    headers = {"traceparent": "00-1-2-01"}
    async with serving(Counting, middleware=[check]) as (_, client):
        refused = await client.get("/count?number=x", headers=headers)
        answered = await client.get("/count?number=x", headers={**headers, "x-forgive": "yes"})
    assert (refused.status_code, answered.json()) == (400, {"number": 0})
    assert [each[:2] for each in seen] == [("server counting.count", "00-1-2-01")] * 2
    assert "number" in seen[0][2]


async def test_max_workers_bounds_requests_and_one_that_waits_can_hang_up() -> None:
    class Busy:
        name = "busy"
        running = most = 0
        free = asyncio.Event()

        @http("GET", "/")
        async def get(self) -> str:
            Busy.running += 1
            Busy.most = max(Busy.most, Busy.running)
            await Busy.free.wait()
            Busy.running -= 1
            return "done"

    async with serving(Busy, max_workers=2) as (runner, client):
        asked = [asyncio.create_task(client.get("/")) for _ in range(5)]
        pool = runner.containers[0]._pool
        async with asyncio.timeout(10):
            while len(pool._waiting) < 3:
                await asyncio.sleep(0)
            asked.pop().cancel()
            while len(pool._waiting) > 2:
                await asyncio.sleep(0)
            Busy.free.set()
            assert {(await each).text for each in asked} == {"done"}
    assert Busy.most == 2


async def test_a_request_above_the_limit_of_a_method_is_answered_with_429() -> None:
    class Busy:
        name = "busy"
        begun, free = asyncio.Event(), asyncio.Event()

        @http("GET", "/", max_concurrency=1, max_waiting=0)
        async def get(self) -> str:
            Busy.begun.set()
            await Busy.free.wait()
            return "done"

    async with serving(Busy) as (_, client):
        first = asyncio.create_task(client.get("/"))
        async with asyncio.timeout(10):
            await Busy.begun.wait()
        refused = await client.get("/")
        Busy.free.set()
        assert (await first).text == "done"
    assert (refused.status_code, refused.json()["code"]) == (429, "resource_exhausted")
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_client_that_hangs_up_cancels_the_method_and_what_it_awaits() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    class Deep:
        name = "deep"

        @rpc
        async def wait(self) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    class Front:
        name = "front"
        deep = RpcProxy("deep", timeout=None)

        @http("GET,POST", "/")
        async def get(self, request: HttpRequest) -> None:
            await self.deep.wait()

    async with serving(Deep, Front) as (runner, _):
        for request in (
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        ):
            begun.clear()
            ended.clear()
            async with asyncio.timeout(10):
                async with connected(runner) as (_, writer):
                    writer.write(request)
                    await begun.wait()
                await ended.wait()


async def test_a_sync_method_runs_in_a_thread_with_its_dependencies() -> None:
    class Sync:
        name = "sync"
        user = ContextData("user")

        @Mapping_.decorator("POST", "/")
        def post(self, request: HttpRequest) -> Any:
            return [self.user, request.content.decode()]

    async with serving(Sync) as (_, client):
        response = await client.post("/", content=b"body", headers={"x-user": "ada"})
    assert response.json() == ["ada", "body"]


async def test_one_method_may_be_called_by_http_rpc_and_events() -> None:
    class Both:
        name = "both"
        itself = RpcProxy("both")

        @http("GET", "/<int:number>")
        @rpc
        @event_handler("other", "happened")
        async def double(self, number: int) -> int:
            return 2 * number

        @http("GET", "/via-rpc")
        async def via(self) -> Any:
            return await self.itself.double(4)

    async with serving(Both) as (runner, client):
        async with entrypoint_waiter(runner.containers[0], "double") as result:
            assert (await client.get("/3")).json() == 6
        assert result.get() == 6
        assert (await client.get("/via-rpc")).json() == 8

"""Arguments of ``Gateway`` that type checkers accept, and others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from starlette.requests import Request

from aiorpc import ClusterRpcProxy, rpc
from aiorpc.http import Gateway


class Shop:
    name = "shop"

    @rpc
    async def quote(self, title: str) -> str:
        return title


class Prices(Protocol):
    async def of(self, title: str) -> int: ...
    def all(self) -> AsyncIterator[int]: ...


async def asynchronous(request: Request) -> Mapping[str, str] | None:
    return {"user": request.headers["x-user"]}


def plain(request: Request) -> dict[str, int]:
    return {}


Gateway(services=[Shop], authenticate=None)
Gateway(
    ClusterRpcProxy(),
    services=[Shop, (Shop, ["quote"]), (Prices, "prices"), (Prices, "p", ["of"]), ("old", ["f"])],
    authenticate=asynchronous,
    errors={LookupError: 404, "shop.NotFound": 410},
    timeout=None,
)
Gateway({"AMQP_URI": "memory://"}, services=[Shop], authenticate=plain, timeout=3)

Gateway(services=["shop"], authenticate=None)  # type: ignore[list-item]  # pyright: ignore
Gateway(services=[Shop], authenticate="token")  # type: ignore[arg-type]  # pyright: ignore

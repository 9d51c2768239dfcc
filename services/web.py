"""
An HTTP API in front of the services: a FastAPI application that awaits calls::

    AMQP_URI=amqp://guest:guest@localhost/ uvicorn services.web:app

The process has one ClusterRpcProxy. The application's lifespan opens and closes it. If the broker
is not there, the application starts all the same: GET /health answers 503 until it is connected.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse

from aiorpc import (
    AioRpcError,
    BadArguments,
    ClusterProxy,
    ClusterRpcProxy,
    ConnectionLost,
    Overloaded,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
)
from services.service_x import ServiceX

log = logging.getLogger(__name__)

#: Seconds until the next attempt to connect.
PAUSE = 1.0
#: Seconds until a request fails. It is the deadline of every call made for the request.
TIMEOUT = 3.0
#: HTTP status by error class. Other errors are failures of this program: 500.
STATUS: dict[type[AioRpcError], int] = {
    BadArguments: 422,
    UnknownService: 503,
    ServiceUnavailable: 503,
    Overloaded: 503,
    ConnectionLost: 503,
    RpcTimeout: 504,
}


async def connect(app: FastAPI) -> None:
    """Return when connected. From then on the proxy itself reconnects."""
    while app.state.cluster is None:
        try:
            app.state.cluster = await app.state.proxy.start()
        except AioRpcError as error:
            log.warning("not connected yet: %s", error)
            await asyncio.sleep(PAUSE)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.cluster = None
    app.state.proxy = ClusterRpcProxy(os.environ.get("AMQP_URI"), timeout=TIMEOUT)
    connecting = asyncio.create_task(connect(app))
    try:
        await asyncio.wait((connecting,), timeout=TIMEOUT)
        yield
    finally:
        connecting.cancel()
        await asyncio.wait((connecting,))
        await app.state.proxy.aclose()


app = FastAPI(title="services", lifespan=lifespan)


def service_x(request: Request) -> ServiceX:
    cluster: ClusterProxy | None = request.app.state.cluster
    if cluster is None:
        raise ConnectionLost("the broker was not there yet")
    return cluster.typed(ServiceX)


X = Annotated[ServiceX, Depends(service_x)]


@app.get("/mark/{value}")
async def mark(value: str, x: X, accept_language: Annotated[str, Header()] = "en") -> str:
    call = x.remote_method.with_options(context_data={"language": accept_language})
    return await call(value)


@app.get("/mark")
async def mark_all(value: Annotated[list[str], Query()], x: X) -> list[str]:
    replies = [x.remote_method.call_async(each) for each in value]  # sends all requests now
    return [await reply for reply in replies]


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    ok = request.app.state.proxy.health().ok
    return JSONResponse({"ok": ok}, 200 if ok else 503)


@app.exception_handler(AioRpcError)
async def failed(request: Request, error: AioRpcError) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    # The error's text names queues and hosts, so it is not for visitors.
    return JSONResponse({"error": type(error).__name__}, status)

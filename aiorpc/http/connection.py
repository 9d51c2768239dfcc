"""
The connection of a gateway to the services. Opens a proxy and closes it, unless somebody else owns
it; connects again while the broker is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..calling.client import Client
from ..calling.proxies import ClusterProxy
from ..calling.standalone import ClusterRpcProxy, Config
from ..config import Settings
from ..exceptions import AioRpcError, ConfigurationError, ConnectionLost
from ..logs import logger
from ..transports.health import Health, problems_of

__all__ = ["Connection"]

log = logger("aiorpc.http")

#: Seconds that a start waits for the broker. After that, requests get 503 until it is there.
PATIENCE = 5.0
#: Seconds between two attempts to connect.
PAUSE = 1.0

_NOT_STARTED = (
    "this Gateway was not started: a mounted application gets no lifespan of its own, so start it "
    "with the parent's, FastAPI(lifespan=gateway.lifespan), or `async with gateway.lifespan(app):` "
    "in a lifespan that you have; or give the Gateway a ClusterRpcProxy that you start"
)


class Connection:
    """
    Gives a gateway the client of its proxy.

    Args:
        given: a configuration, or a proxy. A proxy that was started belongs to who started it.
        settings: the configuration of a proxy that was started.
    """

    def __init__(
        self, given: ClusterRpcProxy | ClusterProxy | Config, settings: Settings | None = None
    ) -> None:
        self._settings = settings
        self._proxy: ClusterRpcProxy | None = None
        self._cluster: ClusterProxy | None = None
        if isinstance(given, ClusterProxy):
            self._cluster = given
        elif isinstance(given, ClusterRpcProxy):
            self._proxy = given
        else:
            self._proxy = ClusterRpcProxy(given)
        #: Whether ``open`` connects now, or will connect again.
        self._opened = False

    @property
    def settings(self) -> Settings:
        """The configuration; the defaults if it is not known."""
        return self._settings or (Settings() if self._proxy is None else self._proxy._settings)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """
        Connect, and disconnect at the end. A proxy that was started already stays as it is.

        Raises:
            ConfigurationError: the broker refuses the user, the password or the vhost.
        """
        if self._opened:
            raise RuntimeError("this Gateway was started already: one lifespan starts it")
        if self._proxy is None or self._proxy._started is not None:
            yield
            return
        connecting = asyncio.create_task(self._connect(self._proxy), name="aiorpc gateway: connect")
        try:
            await asyncio.wait((connecting,), timeout=PATIENCE)
            self._opened = True
            if connecting.done():
                connecting.result()
            else:
                log.warning("no broker yet: the gateway answers 503 until it is connected")
            yield
        finally:
            self._opened = False
            connecting.cancel()
            await asyncio.wait((connecting,))
            await self._proxy.aclose()

    async def _connect(self, proxy: ClusterRpcProxy) -> None:
        while True:
            try:
                await proxy.start()
                return
            except AioRpcError as error:
                if isinstance(error, ConfigurationError) and not self._opened:
                    raise  # the program does not start
                log.warning("the gateway is not connected, and answers 503: %s", error)
            await asyncio.sleep(PAUSE)

    def cluster(self) -> ClusterProxy | None:
        """
        Return the proxy, or None while it is not connected for the first time.

        Raises:
            RuntimeError: nobody started it.
        """
        cluster = self._cluster if self._proxy is None else self._proxy._started
        if cluster is None and not self._opened:
            raise RuntimeError(_NOT_STARTED)
        return cluster

    def client(self) -> Client:
        """
        Return the client that makes calls.

        Raises:
            RuntimeError: nobody started the proxy.
            ConnectionLost: the proxy is not connected for the first time yet.
        """
        cluster = self.cluster()
        if cluster is None:
            raise ConnectionLost("the gateway is not connected yet: check the broker")
        return cluster._client

    def health(self) -> Health:
        """Return whether calls can be made now."""
        if self._proxy is not None:
            return self._proxy.health()
        assert self._cluster is not None
        return Health.of(problems_of(self._cluster._client.transport))

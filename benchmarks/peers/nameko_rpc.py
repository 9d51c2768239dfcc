"""Nameko 2: services in a ``ServiceRunner`` as ``nameko run`` has them, a ``ClusterRpcProxy``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from . import load

warnings.simplefilter("ignore")

MAX_WORKERS = 100


def config_of(options: load.Options) -> dict[str, Any]:
    return {"AMQP_URI": f"py{options.broker}", "max_workers": MAX_WORKERS}


def serve(options: load.Options) -> None:
    import eventlet

    eventlet.monkey_patch()
    from nameko.rpc import RpcProxy, rpc
    from nameko.runners import ServiceRunner

    name_x, name_y = load.service_names(options)

    class ServiceY:
        name = name_y

        @rpc
        def hello(self, value):
            return value + "-y"

    class ServiceX:
        name = name_x
        y = RpcProxy(name_y)

        @rpc
        def hello(self, value):
            return self.y.hello(value + "-x")

    runner = ServiceRunner(config_of(options))
    runner.add_service(ServiceY)
    runner.add_service(ServiceX)
    runner.start()
    print(load.READY, flush=True)
    runner.wait()


def connect(options: load.Options) -> Callable[[str, int], list[str]]:
    from nameko.standalone.rpc import ClusterRpcProxy

    name_x, name_y = load.service_names(options)
    cluster = ClusterRpcProxy(config_of(options), timeout=60).start()
    hello = getattr(cluster, name_x if options.two_hops else name_y).hello

    def batch(value: str, n: int) -> list[str]:
        if n == 1:
            return [hello(value)]
        return [reply.result() for reply in [hello.call_async(value) for _ in range(n)]]

    return batch


if __name__ == "__main__":
    load.main_blocking(serve, connect)

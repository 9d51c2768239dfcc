"""
The whole example in one process, without a server: both services, a client, and a call to a service
that is stopped. Run ``make demo`` or ``python -m services.demo [URL]``.
"""

import asyncio
import sys

from aiorpc import ClusterRpcProxy, ServiceContainer
from services.client import call_everything, show
from services.service_x import ServiceX
from services.service_y import ServiceY


async def demo(url: str) -> None:
    print(f"service_x, service_y and a client on {url}")
    async with ClusterRpcProxy(url, timeout=0.5) as cluster:
        async with ServiceContainer(ServiceY, url), ServiceContainer(ServiceX, url):
            await call_everything(cluster)
        print("\nboth services are stopped; a call ends at its timeout:")
        await show(
            'await cluster.service_x.remote_method("hello")   # timeout=0.5',
            cluster.service_x.remote_method("hello"),
        )


if __name__ == "__main__":
    asyncio.run(demo(sys.argv[1] if len(sys.argv) > 1 else "memory://"))

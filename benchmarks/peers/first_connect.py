"""
How long a fresh process takes until it can call: prints ``import_cpu_ms``, ``import_ms`` and
``connect_ms`` as one line of JSON.

    python -m peers.first_connect aio-pika|aiorpc URL

For aio-pika that is a robust connection and a channel. For aiorpc it is what a caller needs: the
connection, its channels, and a reply queue that is consumed.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter(), time.process_time()

import asyncio  # noqa: E402 - imports are what is measured here
import json  # noqa: E402
import sys  # noqa: E402


async def connect_aio_pika(url: str) -> float:
    import aio_pika

    began = time.perf_counter()
    async with await aio_pika.connect_robust(url) as connection:
        await connection.channel()
        return time.perf_counter() - began


async def connect_aiorpc(url: str) -> float:
    from aiorpc import ClusterRpcProxy

    began = time.perf_counter()
    async with ClusterRpcProxy(url):
        return time.perf_counter() - began


def main(library: str, url: str) -> None:
    if library == "aiorpc":
        # What a program imports, and what its first connection would import otherwise.

        connect = connect_aiorpc
    else:
        import aio_pika  # noqa: F401

        connect = connect_aio_pika
    imported, imported_cpu = time.perf_counter() - _STARTED[0], time.process_time() - _STARTED[1]
    connected = asyncio.run(connect(url))
    print(
        json.dumps(
            {
                "import_cpu_ms": imported_cpu * 1000,
                "import_ms": imported * 1000,
                "connect_ms": connected * 1000,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The admin address on a socket, in its thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Coroutine
from typing import Any

import httpx
import pytest

from aiorpc import ConfigurationError
from aiorpc.admin import AdminServer
from aiorpc.hosting.report import Report, WorkerReport

READY = Report.of([WorkerReport(1, 11, alive=True, ready=True)])


def test_it_answers_while_this_thread_does_not_run_a_loop() -> None:
    with AdminServer("127.0.0.1:0", lambda: READY) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        head = httpx.head(f"{server.url}/livez")
        assert (head.status_code, head.content) == (200, b"")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/readyz")
    assert "aiorpc admin" not in {thread.name for thread in threading.enumerate()}


def test_an_address_in_use_is_an_error_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConfigurationError, match=f"^ADMIN_ADDRESS {address}: cannot listen"),
            AdminServer(address, lambda: READY),
        ):
            pass


def test_a_loop_that_does_not_start_is_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(serving: Coroutine[Any, Any, None]) -> None:
        serving.close()
        raise OSError("too many open files")

    monkeypatch.setattr("aiorpc.admin.server.asyncio.run", run)
    with (
        pytest.raises(OSError, match="too many open files"),
        AdminServer("127.0.0.1:0", lambda: READY),
    ):
        pass


def test_a_scrape_that_hangs_delays_no_probe() -> None:
    begun, hang = threading.Event(), threading.Event()

    def metrics() -> bytes:
        begun.set()
        hang.wait()
        return b"up 1\n"

    with AdminServer("127.0.0.1:0", lambda: READY, metrics) as server:
        scrape = threading.Thread(target=lambda: httpx.get(f"{server.url}/metrics"))
        scrape.start()
        begun.wait()
        assert httpx.get(f"{server.url}/livez").status_code == 200
        hang.set()
        scrape.join()

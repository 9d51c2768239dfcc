"""What the admin address answers, without a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest

from aiorpc.admin import AdminApp
from aiorpc.hosting.report import Report, WorkerReport

FINE = WorkerReport(1, 11, alive=True, ready=True)
BLOCKED = WorkerReport(2, 12, alive=False, ready=False, reasons=("the event loop is blocked",))
CUT_OFF = WorkerReport(2, 12, alive=True, ready=False, reasons=("there is no connection",))


async def ask(
    path: str,
    *workers: WorkerReport,
    method: str = "GET",
    metrics: Callable[[], bytes] | None = None,
) -> httpx.Response:
    app = AdminApp(lambda: Report.of(workers), metrics)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("workers", "live", "ready"),
    [
        ((), 200, 503),
        ((FINE,), 200, 200),
        ((FINE, CUT_OFF), 200, 503),
        ((FINE, BLOCKED), 503, 503),
    ],
)
async def test_the_probes_answer_for_each_worker(
    workers: tuple[WorkerReport, ...], live: int, ready: int
) -> None:
    for path, status in (("/livez", live), ("/readyz", ready)):
        answer = await ask(path, *workers)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert [each["number"] for each in answer.json()["workers"]] == [
            each.number for each in workers
        ]


async def test_a_reason_names_its_worker_if_there_are_several() -> None:
    (reason,) = (await ask("/readyz", FINE, CUT_OFF)).json()["reasons"]
    assert reason == "worker 2 (process 12): there is no connection"
    (reason,) = (await ask("/readyz", CUT_OFF)).json()["reasons"]
    assert reason == "there is no connection"


def test_a_worker_that_is_missing_makes_the_whole_not_ready() -> None:
    report = Report.of([FINE], ["worker 2 is starting"])
    assert (report.alive, report.ready) == (True, False)
    assert report.reasons == ("worker 2 is starting",)


async def test_metrics_are_collected_in_a_thread_and_have_the_type_of_prometheus() -> None:
    threads: list[threading.Thread] = []

    def collect() -> bytes:
        threads.append(threading.current_thread())
        return b"up 1\n"

    answer = await ask("/metrics", metrics=collect)
    assert (answer.status_code, answer.content) == (200, b"up 1\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert threads != [threading.current_thread()]
    assert threads[0].daemon  # no process waits for it at its end


async def test_metrics_that_do_not_exist_or_fail_say_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing = await ask("/metrics")
    assert missing.status_code == 404
    assert "MIDDLEWARE" in missing.text

    def fail() -> bytes:
        raise OSError("no file")

    failed = await ask("/metrics", metrics=fail)
    assert failed.status_code == 500
    assert "no file" not in failed.text
    assert "no file" in caplog.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_no_route_changes_anything(method: str, path: str) -> None:
    answer = await ask(path, FINE, method=method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_another_path_names_the_routes() -> None:
    answer = await ask("/health", FINE)
    assert answer.status_code == 404
    assert "/livez" in answer.text


async def test_scrapes_that_hang_share_a_thread_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[threading.Thread] = []
    go_on = threading.Event()

    def collect() -> bytes:
        begun.append(threading.current_thread())
        go_on.wait()
        return b"up 1\n"

    app = AdminApp(lambda: Report.of([FINE]), collect)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        with monkeypatch.context() as patch:
            patch.setattr("aiorpc.admin.app.COLLECTING", 0.01)
            for _ in range(2):
                answer = await client.get("/metrics")
                assert (answer.status_code, answer.text.strip()[-14:]) == (503, "within 0.01 s.")
        go_on.set()
        assert (await client.get("/metrics")).content == b"up 1\n"
    assert len(begun) == 1

"""What a worker process does each second for its metrics."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from aiorpc.cli import worker_metrics


def test_a_beat_while_the_services_are_imported_writes_no_gauges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread of the beat sees a module that the main thread has begun to import."""
    name = "aiorpc.middleware.prometheus"
    written: list[str] = []
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    worker_metrics.refresh()
    monkeypatch.setattr(module, "refresh", lambda: written.append("gauges"), raising=False)
    worker_metrics.refresh()
    assert written == ["gauges"]

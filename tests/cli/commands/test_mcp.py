"""``aiorpc mcp``: what it refuses. ``tests/test_mcp.py`` runs it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from aiorpc.cli.app import run


def test_the_command_needs_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "contract.json")
    assert run(["contract", "services.service_x", "-o", path]) == 0
    options = ["--contract", path, "--broker", "amqp://localhost/"]
    for words, text in [
        (["mcp", "remote_method"], "name the service"),
        (["mcp", "--service", "service_x", *options], "or --all: service_x has remote_method"),
        (["mcp", "--service", "service_z", "m", *options], "has no service 'service_z'"),
        (["mcp", "--service", "service_x", "remote", *options], "has no method 'remote'"),
    ]:
        assert run(words) == 2
        assert text in capsys.readouterr().err
    # stderr is the log of an agent.
    assert logging.getLogger("aiorpc.mcp").getEffectiveLevel() == logging.WARNING

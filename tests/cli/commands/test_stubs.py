"""``aiorpc stubs``."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiorpc.cli.app import run


def test_a_stub_is_written_from_a_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["contract", "services.service_x", "-o", "contract.json"]) == 0
    assert run(["stubs", "service_x"]) == 0
    source = capsys.readouterr().out
    assert "async def remote_method(self, value: str) -> str: ..." in source
    assert run(["stubs", "service_x", "-o", "stub.py", "--contract", "contract.json"]) == 0
    assert Path("stub.py").read_text(encoding="utf-8") == source


def test_a_missing_contract_or_service_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["stubs", "service_x"]) == 2
    assert "the contract contract.json cannot be read" in capsys.readouterr().err
    assert run(["contract", "services.service_x", "-o", "contract.json"]) == 0
    assert run(["stubs", "service_y"]) == 2
    assert "the contract has no service 'service_y'" in capsys.readouterr().err

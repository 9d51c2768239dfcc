"""``aiorpc contract``."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiorpc.cli.app import run
from aiorpc.contracts.reading import read

MODULE = "services.library.library"


def test_the_contract_of_a_module_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["contract", MODULE, "services.service_x"]) == 0
    contract = read(capsys.readouterr().out, "stdout")
    assert list(contract.services) == ["library", "service_x"]


def test_a_file_is_written_only_if_it_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "contract.json"
    assert run(["contract", f"{MODULE}:Library", "-o", str(path)]) == 0
    assert "wrote" in capsys.readouterr().err
    written = path.stat().st_mtime_ns
    assert run(["contract", MODULE, "-o", str(path)]) == 0
    assert "is up to date" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == written


def test_wrong_arguments_say_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, text in [
        (["contract"], "aiorpc contract MODULE"),
        (["contract", "no_such_module"], "no module named no_such_module"),
        (["contract", MODULE, "-o", str(tmp_path / "no" / "file")], "cannot be written"),
    ]:
        assert run(words) == 2
        assert text in capsys.readouterr().err

"""``aiorpc contract``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiorpc.cli.app import run
from aiorpc.cli.commands.contract.diff import called
from aiorpc.contracts.reading import read
from aiorpc.contracts.rules import Break
from aiorpc.hosting.discovery.shapes import Caller

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


@pytest.fixture
def contracts(tmp_path: Path) -> tuple[str, str]:
    """An old contract, and a new one without one of its services."""
    old, new = str(tmp_path / "old.json"), str(tmp_path / "new.json")
    assert run(["contract", MODULE, "services.service_x", "-o", old]) == 0
    assert run(["contract", MODULE, "-o", new]) == 0
    return old, new


def test_a_break_is_a_line_and_the_exit_code_1(
    contracts: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "SERVICE_NO_DELETE service_x: was a service, is gone; hurts callers"
    assert run(["contract", "diff", *contracts]) == 1
    assert capsys.readouterr().out == f"{line}\n"
    assert run(["contract", "diff", *contracts, "--format", "github"]) == 1
    where = contracts[1].replace(":", "%3A")
    title = "SERVICE_NO_DELETE"
    assert capsys.readouterr().out == f"::error file={where},title={title}::{line}\n"
    assert run(["contract", "diff", *contracts, "--format", "json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found == {
        "rule": "SERVICE_NO_DELETE",
        "where": "service_x",
        "was": "a service",
        "is": "gone",
        "hurts": "callers",
        "method": "service_x",
    }


def test_a_contract_that_breaks_nothing_has_the_exit_code_0(
    contracts: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["contract", "diff", *contracts[::-1]]) == 0
    assert "breaks nothing of" in capsys.readouterr().err
    assert run(["contract", "diff", *contracts[::-1], "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_files_that_are_no_contracts_are_errors(
    contracts: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["contract", "diff", contracts[0], str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read: No such file" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    assert run(["contract", "diff", contracts[0], str(tmp_path / "other.json")]) == 2
    assert "is not a contract of aiorpc" in capsys.readouterr().err


def test_the_callers_of_a_break_are_shown() -> None:
    broken = Break("METHOD_NO_DELETE", "shop.sell", "a method", "gone", "callers", "shop.sell")
    callers = {
        "shop.sell": {f"s{n}.m": Caller(10 - n, 3.4) for n in range(7)},
        "shop.sell_all": {"other.m": Caller(1, 1.0)},
    }
    text = called(broken, callers)
    assert text.startswith("; called by s0.m (10 calls, the last 3 s ago), s1.m (9 calls")
    assert text.endswith(" and 2 more")
    assert called(broken, {}) == "; called by nobody yet"
    whole = Break("SERVICE_NO_DELETE", "shop", "a service", "gone", "callers", "shop")
    assert "and 3 more" in called(whole, callers)
    assert called(broken, None) == ""

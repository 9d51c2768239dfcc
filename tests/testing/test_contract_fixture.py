"""The fixture ``contract`` of the pytest plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiorpc import rpc
from aiorpc.cli.app import run
from aiorpc.testing.plugin import ContractHolder
from services.service_x import ServiceX


class Changed:
    name = ServiceX.name

    @rpc
    async def remote_method(self, value: int) -> str: ...


class Longer:
    """The same, with a docstring."""

    name = ServiceX.name

    @rpc
    async def remote_method(self, value: str) -> str: ...


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "contract.json"
    assert run(["contract", "services.service_x:ServiceX", "-o", str(path)]) == 0
    return path


def failure(contract: ContractHolder, *services: type, file: Path) -> str:
    with pytest.raises(pytest.fail.Exception) as caught:
        contract(*services, file=file)
    return str(caught.value)


def test_a_service_that_keeps_its_contract_passes(contract: ContractHolder, file: Path) -> None:
    contract(ServiceX, file=file)
    file.write_text(file.read_text(encoding="utf-8").replace("\n", ""), encoding="utf-8")
    contract(ServiceX, file=file)  # a formatter may change the text


def test_a_break_is_named_with_the_command_that_updates_the_file(
    contract: ContractHolder, file: Path
) -> None:
    text = failure(contract, Changed, file=file)
    assert "ARGUMENT_SAME_TYPE service_x.remote_method(value): was string, is integer" in text
    assert text.endswith(f"    aiorpc contract {__name__}:Changed -o {file}")


def test_another_difference_breaks_nothing(contract: ContractHolder, file: Path) -> None:
    text = failure(contract, Longer, file=file)
    assert "and breaks nothing of it" in text
    assert f"aiorpc contract {__name__}:Longer -o {file}" in text


def test_a_missing_file_is_a_failure_that_says_what_to_do(
    contract: ContractHolder, tmp_path: Path
) -> None:
    text = failure(contract, ServiceX, file=tmp_path / "none.json")
    assert "there is no contract" in text
    assert "aiorpc contract services.service_x:ServiceX -o" in text
    (tmp_path / "none.json").write_text("{}")
    assert "is not a contract" in failure(contract, ServiceX, file=tmp_path / "none.json")


def test_a_test_without_a_service_is_wrong(contract: ContractHolder) -> None:
    with pytest.raises(pytest.fail.Exception, match="name the services"):
        contract()

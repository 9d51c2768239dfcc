"""What users import from ``aiorpc``, and what type checkers read of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aiorpc

STUB = Path(aiorpc.__file__).with_suffix(".pyi")


def test_type_checkers_and_python_see_the_same_names() -> None:
    tree = ast.parse(STUB.read_text())
    found = {
        alias.name: f"aiorpc.{node.module}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == {name: f"aiorpc.{module}" for name, module in aiorpc._MODULES.items()}
    assert {"__version__", *found} == set(aiorpc.__all__)


@pytest.mark.parametrize("name", aiorpc.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(aiorpc, name) is not None
    assert name in dir(aiorpc)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'aiorpc' has no attribute 'rcp'"):
        aiorpc.rcp  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'rcp' from 'aiorpc'"):
        exec("from aiorpc import rcp")


def test_a_submodule_is_an_attribute() -> None:
    code = "import aiorpc; assert issubclass(aiorpc.exceptions.RpcTimeout, Exception)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_client_loads_no_services_and_a_service_no_clients() -> None:
    for name, absent in (("ClusterRpcProxy", "hosting"), ("rpc", "calling")):
        code = f"import sys; from aiorpc import {name}; assert 'aiorpc.{absent}' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


WITHOUT_AN_EXTRA = """
import sys
sys.modules["{missing}"] = None  # as if it were not installed
import aiorpc

assert not hasattr(aiorpc, "{package}")
for code in ("import aiorpc.{package}", "from aiorpc import {package}"):
    try:
        exec(code)
    except ModuleNotFoundError as error:
        assert "pip install" in str(error), error
    else:
        raise AssertionError(code)
try:
    aiorpc.{package}
except AttributeError as error:
    assert "pip install" in str(error), error
"""


@pytest.mark.parametrize(
    ("package", "missing"),
    [("sqlalchemy", "sqlalchemy"), ("http", "starlette"), ("admin", "uvicorn")],
)
def test_a_package_without_its_extra_is_no_attribute_and_says_what_to_install(
    package: str, missing: str
) -> None:
    code = WITHOUT_AN_EXTRA.format(package=package, missing=missing)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)

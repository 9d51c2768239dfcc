"""
The wheel is complete, and works without the tree. `make wheel-test` does the same in empty
environments with each interpreter.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support import wheel as wheels

ROOT = wheels.ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed, so no wheel is built here: run `make wheel-test`")
    return wheels.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_the_package_and_nothing_else(contents: dict[str, bytes]) -> None:
    packaged = {name for name in contents if ".dist-info/" not in name}
    tree = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "aiorpc").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert packaged == tree
    assert "aiorpc/py.typed" in packaged
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_the_wheels_metadata_is_complete(contents: dict[str, bytes]) -> None:
    (metadata,) = (body for name, body in contents.items() if name.endswith("/METADATA"))
    message = message_from_bytes(metadata)
    assert message["Name"] == "aiorpc-amqp"
    assert message["Requires-Python"] == ">=3.11"
    plain = [each for each in message.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert {each.split("<")[0].split(">")[0] for each in plain} == {
        *("aio-pika", "msgspec", "pyyaml", "rich")
    }
    (points,) = (body for name, body in contents.items() if name.endswith("/entry_points.txt"))
    assert b"aiorpc = aiorpc.testing.plugin" in points.split(b"[pytest11]")[1]


@pytest.mark.long
def test_a_projects_tests_pass_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Runs in this environment, with the wheel before the tree on the path."""
    site, project = tmp_path / "site", tmp_path / "project"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    wheels.run([*pip, "--no-deps", "--no-index", "--target", str(site), str(wheel)])
    shutil.copytree(wheels.PROJECT, project)
    (project / "test_where.py").write_text(
        f"import aiorpc\ndef test_where(): assert aiorpc.__file__.startswith({str(site)!r})\n"
    )
    arguments = [*wheels.RUNS["pytest-asyncio, auto"], "test_where.py"]
    environment = {"PYTHONPATH": str(site)}
    printed = wheels.run([sys.executable, "-m", "pytest", "-q", *arguments], project, environment)
    assert "8 passed" in printed
    version = wheels.run([str(site / "bin" / "aiorpc"), "--version"], project, environment)
    assert wheel.name.split("-")[1] in version

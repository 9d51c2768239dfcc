"""``aiorpc new``: the files that it writes work without a change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aiorpc.cli.loading import load_services, look_in_current_directory
from aiorpc.config import load
from tests.support.command_line import Project, invoke


def test_a_new_service_passes_its_test(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("new", "greeting-cards")
    assert (done.code, done.stderr) == (0, "")
    made = here.directory / "greeting-cards"
    assert sorted(path.name for path in made.iterdir()) == [
        "config.yaml",
        "greeting_cards.py",
        "test_greeting_cards.py",
    ]
    for line in ("pytest", "aiorpc run greeting_cards --config config.yaml"):
        assert f"\n  {line}" in done.stdout
    assert """\n  aiorpc call greeting-cards.hello '["Ada"]' --config config.yaml""" in done.stdout

    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"],
        cwd=made,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "2 passed" in tests.stdout, tests.stdout + tests.stderr

    monkeypatch.chdir(made)
    monkeypatch.delenv("AMQP_URI", raising=False)
    assert load("config.yaml").amqp_uri == "amqp://guest:guest@localhost/"
    look_in_current_directory()
    (service,) = load_services(["greeting_cards"])
    assert service.__name__ == "GreetingCards"
    assert vars(service)["name"] == "greeting-cards"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1st", "'1st' cannot name a service"),
        ("a.b", "'a.b' cannot name a service"),
        ("../up", "cannot name a service"),
        ("class", "'class' cannot name a service"),
        ("json", "would hide an existing module named json"),
        ("aiorpc", "would hide an existing module named aiorpc"),
        ("none", "the name None for the class of 'none' is already used"),
        ("cluster-rpc-proxy", "the name ClusterRpcProxy for the class of"),
    ],
)
def test_a_name_that_cannot_be_used_is_one_line_and_exits_2(
    name: str, text: str, here: Project
) -> None:
    done = invoke("new", name)
    assert done.code == 2
    assert text in done.error
    assert os.listdir(here.directory) == []


def test_nothing_is_overwritten(here: Project) -> None:
    here.directory.joinpath("cards").mkdir()
    done = invoke("new", "cards")
    assert done.code == 2
    assert done.error == f"{Path.cwd() / 'cards'} exists already"


def test_the_new_configuration_has_known_keys_only(here: Project) -> None:
    invoke("new", "cards")
    text = (here.directory / "cards" / "config.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == {"AMQP_URI", "max_workers"}

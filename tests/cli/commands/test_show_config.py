"""``aiorpc show-config``: what services will see, and no secrets."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from aiorpc.cli.commands.show_config import as_yaml
from tests.support.command_line import Project, invoke

CONFIG = """
AMQP_URI: amqp://app:${PASSWORD}@${HOST:localhost}/
max_workers: ${WORKERS:7}
SMTP: {host: mail, password: "hunter2", api_token: t0ken}
DB_URIS: {"service_x:Base": "postgresql://app:hunter2@db/x"}
"""


@pytest.fixture
def shown(here: Project, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    here.write("config.yaml", CONFIG)
    monkeypatch.setenv("PASSWORD", "hunter2")
    monkeypatch.delenv("HOST", raising=False)
    monkeypatch.delenv("WORKERS", raising=False)
    done = invoke("show-config", "--config", "config.yaml", "--define", "RPC_TIMEOUT=3")
    assert (done.code, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    assert "t0ken" not in done.stdout
    content: dict[str, Any] = yaml.safe_load(done.stdout)
    return content


def test_variables_are_substituted_and_secrets_masked(shown: dict[str, Any]) -> None:
    assert shown["AMQP_URI"] == "amqp://app:***@localhost/"
    assert shown["max_workers"] == 7
    assert shown["SMTP"] == {"host": "mail", "password": "***", "api_token": "***"}
    assert shown["DB_URIS"] == {"service_x:Base": "postgresql://app:***@db/x"}


def test_options_of_the_command_line_are_shown(shown: dict[str, Any]) -> None:
    assert shown["RPC_TIMEOUT"] == 3


@pytest.mark.parametrize("option", [("--broker", "amqp://h/"), ("--define", "AMQP_URI=amqp://h/")])
def test_the_command_line_wins_over_a_variable_that_is_not_set(
    option: tuple[str, str], here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMQP_URI", raising=False)
    here.write("config.yaml", "AMQP_URI: ${AMQP_URI}\nmax_workers: 3\n")
    assert "AMQP_URI: amqp://h/\n" in invoke("show-config", "-c", "config.yaml", *option).stdout
    assert invoke("show-config", "-c", "config.yaml").code == 2


def test_without_a_file_the_broker_is_that_of_the_environment(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMQP_URI", "amqp://me:secret@there/")
    assert "AMQP_URI: amqp://me:***@there/\n" in invoke("show-config", "--defaults").stdout
    for option in (("--broker", "amqp://h/"), ("--define", "AMQP_URI=amqp://h/")):
        assert invoke("show-config", *option).stdout == "AMQP_URI: amqp://h/\n"
    here.write("config.yaml", "max_workers: 3\n")
    assert invoke("show-config", "-c", "config.yaml").stdout == "max_workers: 3\n"
    monkeypatch.setenv("AMQP_URI", "")
    assert invoke("show-config").error.startswith("the environment: ")


@pytest.mark.parametrize("command", [("show-config",), ("run", "x", "--reload")])
def test_a_url_in_place_of_a_file_is_an_error(command: tuple[str, ...]) -> None:
    done = invoke(*command, "--config", "amqp://user:hunter2@host/")
    assert done.code == 2
    assert done.error == "--config amqp://user:***@host/ is a URL: use --broker"


def test_keys_stay_in_the_order_of_the_file(shown: dict[str, Any]) -> None:
    assert list(shown) == ["AMQP_URI", "max_workers", "SMTP", "DB_URIS", "RPC_TIMEOUT"]


def test_defaults_are_shown_on_request() -> None:
    done = invoke("show-config", "--defaults", "--define", "COLOUR=mine")
    content = yaml.safe_load(done.stdout)
    assert content["RPC_TIMEOUT"] == 30
    assert content["SHUTDOWN_TIMEOUT"] == 25
    assert content["COLOUR"] == "mine"


def test_a_wrong_configuration_is_one_line_and_exits_2(here: Project) -> None:
    here.write("config.yaml", "max_workers: 0\n")
    done = invoke("show-config", "--config", "config.yaml")
    assert done.code == 2
    assert done.error.startswith("config.yaml: max_workers must be ")


def test_values_without_yaml_syntax_are_shown_by_their_repr() -> None:
    assert yaml.safe_load(as_yaml({"a": 1 + 2j, "b": {"c": [None, True, "ä"]}})) == {
        "a": "(1+2j)",
        "b": {"c": [None, True, "ä"]},
    }


@pytest.mark.parametrize("command", [["show-config"], ["ls"]])
def test_keys_that_have_no_effect_are_named(here: Project, command: list[str]) -> None:
    here.write("config.yaml", "AMQP_URI: amqp://127.0.0.1:1/\nAMQP_FAST_LANE: true\n")
    done = invoke(*command, "--config", "config.yaml")
    assert "AMQP_FAST_LANE has no effect any more" in done.stderr

"""``aiorpc doctor``: what it prints, its exit codes, and a configuration that cannot be read."""

from __future__ import annotations

import json

import pytest

from aiorpc.cli.commands.doctor import EXIT_CODES
from aiorpc.doctor.findings import Severity
from tests.support.command_line import Project, invoke

NOBODY = "amqp://127.0.0.1:1/"


def test_each_finding_says_what_why_and_what_to_do() -> None:
    done = invoke("doctor", "--broker", NOBODY)
    assert done.code == 2
    lines = done.stdout.splitlines()
    at = next(at for at, line in enumerate(lines) if "address-unreachable" in line)
    assert lines[at].startswith("error        address-unreachable")
    assert "127.0.0.1:1: " in lines[at]
    assert lines[at + 1].strip().startswith("why: Nothing connects there.")
    assert lines[at + 2].strip().startswith("do:  Start the broker there,")
    assert "not checked" in done.stdout
    assert lines[-1].startswith("1 error, ")


def test_json_has_the_findings_and_the_exit_code() -> None:
    done = invoke("doctor", "--broker", NOBODY, "--json")
    report = json.loads(done.stdout)
    assert (report["worst"], report["exit_code"], done.code) == ("error", 2, 2)
    (found,) = [each for each in report["findings"] if each["name"] == "address-unreachable"]
    assert {*found} == {"name", "severity", "subject", "what", "why", "remedy"}


def test_a_warning_is_exit_code_1() -> None:
    done = invoke("doctor", "--broker", "memory://", "--define", "RPC_TIMEOUT=null")
    assert done.code == 1
    assert "calls-unbounded" in done.stdout


def test_nothing_worse_than_a_note_is_exit_code_0() -> None:
    done = invoke("doctor", "--broker", "memory://")
    assert done.code == 0, done.stdout
    assert EXIT_CODES[Severity.NOT_CHECKED] == 0
    assert {*EXIT_CODES} == {*Severity}


def test_a_configuration_that_cannot_be_read_is_a_finding(here: Project) -> None:
    here.write("config.yaml", "RPC_TIMEUT: 3\n")
    done = invoke("doctor", "--config", "config.yaml")
    assert done.code == 2
    assert "configuration-wrong" in done.stdout
    assert "did you mean RPC_TIMEOUT?" in done.stdout


def test_a_module_that_cannot_be_imported_does_not_end_the_others(here: Project) -> None:
    here.write_service()
    here.write("broken.py", "raise ValueError('no such thing')\n")
    done = invoke("doctor", "broken", "greetings", "nothing", "--broker", "memory://", "--json")
    findings = json.loads(done.stdout)["findings"]
    wrong = {each["subject"]: each["what"] for each in findings if each["name"] == "module-wrong"}
    assert {*wrong} == {"broken", "nothing"}
    assert "ValueError: no such thing" in wrong["broken"]
    assert done.code == 2


def test_a_wrong_url_of_the_management_api_is_a_finding() -> None:
    done = invoke("doctor", "--broker", "memory://", "--management", "localhost:15672")
    assert done.code == 2
    assert "is not the URL of a management API" in done.stdout


@pytest.mark.parametrize("secret", ["s3cret"])
def test_no_line_has_a_password(secret: str) -> None:
    url, api = f"amqp://shop:{secret}@127.0.0.1:1/", f"http://shop:{secret}@127.0.0.1:1"
    done = invoke("doctor", "--broker", url, "--management", api)
    assert secret not in done.stdout + done.stderr

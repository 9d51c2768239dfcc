"""What all commands have in common: help, version, completion, exit codes."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiorpc
import aiorpc.cli
from aiorpc import (
    BadArguments,
    ConfigurationError,
    ConnectionLost,
    MethodNotFound,
    RemoteError,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
    UnserializableValueError,
)
from aiorpc.cli.app import COMMANDS, complete
from aiorpc.cli.output import EXIT_CODES, ExitCode, exit_code_of
from tests.support.command_line import PATIENCE, SCRIPT, invoke, run


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_printed(option: str) -> None:
    done = invoke(option)
    assert (done.code, done.stdout) == (0, f"aiorpc {aiorpc.__version__}\n")


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    done = invoke("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", done.stdout, re.MULTILINE), command
    for code in ExitCode:
        assert re.search(rf"^ +{code.value}  \w", done.stdout, re.MULTILINE), code


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_examples_as_they_are_typed(command: str) -> None:
    done = invoke(command, "--help")
    assert done.code == 0
    assert re.search(rf"^  \$ (aiorpc|echo .* \| aiorpc) {command}\b", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_examples_in_help_keep_their_brackets() -> None:
    assert """aiorpc call service_x.remote_method '["hello"]'""" in invoke("call", "--help").stdout


def test_no_command_is_help_and_exit_2() -> None:
    done = invoke()
    assert done.code == 2
    assert "usage: aiorpc" in done.stdout


def test_an_unknown_command_is_one_line_with_the_likely_one() -> None:
    done = invoke("cal")
    assert done.code == 2
    assert "'call'" in done.error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("aiorpc sh", {"shell", "show-config"}),
        ("aiorpc --debug ca", {"call"}),
        ("aiorpc run shop --re", {"--reload"}),
        ("aiorpc show-config --d", {"--define", "--defaults", "--debug"}),
        ("aiorpc run sho", set()),
        ("aiorpc nosuch --", set()),
        ("aiorpc", set(COMMANDS) | {"--help", "--version", "--debug"}),
    ],
)
def test_completion_knows_the_commands_and_their_options(line: str, words: set[str]) -> None:
    assert set(complete(line)) == words


def test_the_shell_asks_for_completion_as_the_page_says() -> None:
    done = run("--complete", "aiorpc", "sh", "aiorpc", env={"COMP_LINE": "aiorpc sh"})
    assert (done.code, done.stdout.split()) == (0, ["shell", "show-config"])


def test_the_garbage_of_a_command_is_collected(tmp_path: Path) -> None:
    source = "import gc; print('at import', gc.isenabled(), gc.get_freeze_count() > 1000)"
    (tmp_path / "shop.py").write_text(source)
    done = run("run", "shop", "--broker", "memory://", cwd=tmp_path)
    assert done.stdout == "at import True True\n"
    assert "shop has no service" in done.stderr


def test_a_pipe_that_closes_early_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{SCRIPT} show-config --defaults | (exec <&-; true)"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteError("ValueError", "no"), 1),
        (ConfigurationError("no"), 2),
        (MethodNotFound("no"), 2),
        (BadArguments("no"), 2),
        (UnserializableValueError("no"), 2),
        (UnknownService("no"), 3),
        (ServiceUnavailable("no"), 3),
        (RpcTimeout("no"), 4),
        (ConnectionLost("no"), 5),
    ],
)
def test_each_error_has_its_exit_code(error: aiorpc.AioRpcError, code: int) -> None:
    assert exit_code_of(error) == code


def test_help_describes_every_exit_code() -> None:
    listed = {int(code) for code in re.findall(r"^ +(\d+)  ", EXIT_CODES, re.MULTILINE)}
    assert listed == {code.value for code in ExitCode}


def test_ctrl_c_while_modules_are_imported_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "aiorpc.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "aiorpc.cli.app")
    monkeypatch.delattr(aiorpc.cli, "app")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        aiorpc.cli.main()
    gc.enable()  # main() disables it
    assert ended.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_onto_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [SCRIPT, "show-config", "--broker", "memory://"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "error: the output cannot be written: No space left on device\n"

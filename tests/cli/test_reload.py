"""``aiorpc run --reload``: when the child restarts, and which signals reach it, and how often."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.command_line import SCRIPT, Project, Started, invoke

pytest.importorskip("watchfiles")

MEMORY = ("--broker", "memory://")


def test_reload_starts_again_when_a_file_changes(project: Project) -> None:
    project.write_service()
    with Started("run", "greetings", "--reload", *MEMORY, cwd=project.directory) as process:
        process.waits_for("ready")
        project.write("greetings.py", "broken = 1 / 0\n")
        process.waits_for("reload: greetings.py changed")
        process.waits_for(f"{project.name} stopped")
        process.waits_for("error: importing greetings failed: ZeroDivisionError")
        project.write_service()
        process.waits_for("ready", times=2)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert process.output.count("SIGTERM: finishing the running calls") == 2
    assert "ending at once" not in process.output


def test_kill_reaches_the_child_although_stdin_is_a_terminal(project: Project) -> None:
    project.write_service()
    ours, theirs = pty.openpty()
    arguments = ("run", "greetings", "--reload", *MEMORY)
    try:
        with Started(*arguments, cwd=project.directory, stdin=theirs) as process:
            process.waits_for("ready")
            process.signal(signal.SIGINT)
            assert process.ends() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.output.count("SIGINT: finishing the running calls") == 1


def test_ctrl_c_reaches_the_child_once_without_a_terminal(project: Project) -> None:
    project.write_slow_service(1)
    with Started("run", "slow", "--reload", *MEMORY, cwd=project.directory) as process:
        process.waits_for("ready")
        process.presses_ctrl_c()
        assert process.ends() == 0
    assert "SIGINT: finishing the running calls" in process.output
    assert "finished" in process.output
    assert "ending at once" not in process.output


@pytest.mark.parametrize("times", [1, 2])
def test_only_the_second_signal_ends_a_child_that_stops_for_a_reload(
    times: int, project: Project
) -> None:
    project.write_slow_service(3)
    with Started("run", "slow", "--reload", *MEMORY, cwd=project.directory) as process:
        process.waits_for("began")
        process.waits_for("ready")
        project.write("other.py", "changed = True\n")
        process.waits_for("finishing the running calls")
        for _ in range(times):
            process.signal(signal.SIGTERM)
            time.sleep(0.2)  # the kernel merges two signals that are pending at the same time
        assert process.ends() == (0 if times == 1 else 128 + signal.SIGTERM)
    assert ("finished" in process.output) == (times == 1)
    assert ("ending at once" in process.output) == (times == 2)
    assert process.output.count("ready") == 1


def with_hangup(disposition: str) -> tuple[str, ...]:
    """``aiorpc`` with SIGHUP as a shell (SIG_DFL) or nohup (SIG_IGN) leaves it to a command."""
    code = (
        "import os, signal, sys; "
        f"signal.signal(signal.SIGHUP, signal.{disposition}); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return (sys.executable, "-c", code, str(SCRIPT))


def test_a_terminal_that_closes_ends_the_child_too(project: Project) -> None:
    project.write_service()
    arguments = ("run", "greetings", "--reload", *MEMORY)
    with Started(*arguments, cwd=project.directory, command=with_hangup("SIG_DFL")) as process:
        process.waits_for("ready")
        process.signal(signal.SIGHUP)
        assert process.ends() == 0
    assert "SIGTERM: finishing the running calls" in process.output


def test_under_nohup_a_terminal_that_closes_ends_nothing(project: Project) -> None:
    project.write_service()
    arguments = ("run", "greetings", "--reload", *MEMORY)
    with Started(*arguments, cwd=project.directory, command=with_hangup("SIG_IGN")) as process:
        process.waits_for("ready")
        process.signal(signal.SIGHUP)
        project.write_service()
        process.waits_for("ready", times=2)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_reload_passes_debug_on(project: Project) -> None:
    project.write_service()
    arguments = ("--debug", "run", "greetings", "--reload", "--config", "nosuch.yaml")
    with Started(*arguments, cwd=project.directory) as process:
        process.waits_for("Traceback")
        process.waits_for("error: cannot read nosuch.yaml")
        process.signal(signal.SIGTERM)
        process.ends()


def test_reload_names_a_directory_that_is_not_there(here: Project, tmp_path: Path) -> None:
    here.write_service()
    missing = str(tmp_path.parent / "nosuch" / "config.yaml")
    done = invoke("run", "greetings", "--reload", "--config", missing)
    assert done.code == 2
    assert done.error == f"cannot read {missing}: its directory does not exist"


def test_without_watchfiles_the_error_names_the_extra(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    here.write_service()
    done = invoke("run", "greetings", "--reload", *MEMORY)
    assert done.code == 2
    assert done.error == "--reload needs watchfiles: pip install 'aiorpc-amqp[reload]'"

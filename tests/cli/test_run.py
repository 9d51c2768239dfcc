"""``aiorpc run``: from a module's name to a process that serves, and its end."""

from __future__ import annotations

import io
import logging
import os
import pty
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aiorpc import ConfigurationError
from aiorpc.cli.serving import set_up_logging
from aiorpc.config import Settings

from .commands import SCRIPT, Started, invoke, run
from .conftest import Project

MEMORY = ("--broker", "memory://")


def test_one_line_when_ready_and_one_when_stopped(project: Project) -> None:
    project.write_service()
    with Started("run", "greetings", *MEMORY, cwd=project.directory) as process:
        line = process.waits_for("ready")
        process.signal(signal.SIGINT)
        assert process.ends() == 0
    assert "INFO" in line
    assert (
        f"{project.name} ready: methods add, birthday, echo, fail, nap, whoami; "
        f"queues rpc-{project.name}; broker memory://"
    ) in line
    assert "SIGINT: finishing the calls in hand" in process.output
    assert f"{project.name} stopped" in process.output.splitlines()[-1]
    assert "Traceback" not in process.output


# Stopping


def test_a_signal_lets_calls_in_hand_finish(project: Project) -> None:
    project.write_slow_service(0.5)
    command = [sys.executable, "-m", "aiorpc"]  # the same as the script
    with Started("run", "slow", *MEMORY, cwd=project.directory, command=command) as process:
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert "SIGTERM: finishing the calls in hand" in process.output
    assert "finished" in process.output
    assert "outcome: returned" in process.output


def test_a_sync_method_that_does_not_return_does_not_hold_the_process(project: Project) -> None:
    project.write(
        "stuck.py",
        "import time\nfrom aiorpc import once\n\n"
        "class Stuck:\n    name = 'stuck'\n\n    @once\n    def sleep(self):\n"
        "        print('began', flush=True)\n        time.sleep(600)\n",
    )
    limits = ("--define", "SHUTDOWN_TIMEOUT=0.2", "--define", "CLEANUP_TIMEOUT=0.2")
    with Started("run", "stuck", *MEMORY, *limits, cwd=project.directory) as process:
        process.waits_for("began")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 1
    assert "ending without threads that did not return: aiorpc-stuck_0" in process.output


IN_A_THREAD = """
import asyncio, time
from contextlib import asynccontextmanager
from aiorpc import DependencyProvider, once

class Feed(DependencyProvider):
    @asynccontextmanager
    async def lifespan(self, host):
        async def follow():
            await asyncio.sleep({fails_after})
            raise OSError("feed lost")
        host.spawn(follow(), "feed")
        yield

    def value(self, worker_ctx):
        return None

class Threaded:
    name = "threaded"
    feed = Feed()

    @once
    async def begin(self):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, {seconds})
        print("began", flush=True)
"""


def test_a_thread_of_the_loop_does_not_hold_the_process(project: Project) -> None:
    project.write("threaded.py", IN_A_THREAD.format(seconds=600, fails_after=600))
    limit = ("--define", "SHUTDOWN_TIMEOUT=0.5")
    with Started("run", "threaded", *MEMORY, *limit, cwd=project.directory) as process:
        process.waits_for("began")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 1
    assert "threaded stopped" in process.output
    assert "ending without threads that did not return" in process.output


def test_a_thread_has_the_time_for_stopping(project: Project) -> None:
    project.write("threaded.py", IN_A_THREAD.format(seconds=1, fails_after=600))
    with Started("run", "threaded", *MEMORY, cwd=project.directory) as process:
        process.waits_for("began")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert "ending without" not in process.output


def test_a_thread_does_not_hide_why_a_service_failed(project: Project) -> None:
    project.write("threaded.py", IN_A_THREAD.format(seconds=600, fails_after=0.2))
    limit = ("--define", "SHUTDOWN_TIMEOUT=0.5")
    with Started("run", "threaded", *MEMORY, *limit, cwd=project.directory) as process:
        process.waits_for("began")
        assert process.ends() == 1
    assert "threaded.py" in process.output
    assert "error: a service failed: OSError: feed lost" in process.output


def test_a_task_that_resists_does_not_hold_the_process(project: Project) -> None:
    project.write(
        "resisting.py",
        """
        import asyncio
        from aiorpc import once

        async def resist():
            while True:
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    pass

        class Resisting:
            name = "resisting"

            @once
            async def begin(self):
                self.task = asyncio.ensure_future(resist())
                globals()["task"] = self.task
        """,
    )
    limit = ("--define", "SHUTDOWN_TIMEOUT=0.5")
    with Started("run", "resisting", *MEMORY, *limit, cwd=project.directory) as process:
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 1
    assert "ending without tasks that resist" in process.output


def test_what_does_not_finish_in_time_is_told_and_exits_1(project: Project) -> None:
    project.write_slow_service(600)
    limit = ("--define", "SHUTDOWN_TIMEOUT=0.2")
    with Started("run", "slow", *MEMORY, *limit, cwd=project.directory) as process:
        process.waits_for("began")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 1
    assert "1 call(s) still ran after 0.2 s (SHUTDOWN_TIMEOUT)" in process.output
    assert "outcome: abandoned" in process.output


def test_a_second_signal_ends_it_at_once(project: Project) -> None:
    project.write_slow_service(600)
    with Started("run", "slow", *MEMORY, cwd=project.directory) as process:
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        process.waits_for("finishing the calls in hand")
        process.signal(signal.SIGTERM)
        assert process.ends() == 128 + signal.SIGTERM


def test_it_waits_for_the_broker_and_says_so(project: Project, closed_port: int) -> None:
    project.write_service()
    url = f"amqp://guest:secret@127.0.0.1:{closed_port}/"
    with Started("run", "greetings", "--broker", url, cwd=project.directory) as process:
        line = process.waits_for("no connection yet")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert f"amqp://guest:***@127.0.0.1:{closed_port}/" in line
    assert "refused" in line.lower()
    assert "secret" not in process.output


# What is wrong is one line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Missing argument 'MODULE[:CLASS]'"),
        (["nosuch"], "no module named nosuch in "),
        (["json.nosuch"], "no module named json.nosuch in package json"),
        (["greetings:Nobody"], "greetings has no class 'Nobody'; it has Greetings"),
        (["greetings:asyncio"], "greetings:asyncio is no class but a value of type module"),
        (["greetings.py"], "write greetings"),
        (["./greetings.py:Greetings"], "write greetings:Greetings"),
        (["greet-ings!"], "no module named greet-ings!"),
        ([":Greetings"], "'' is no name of a module"),
        (["colorsys"], "colorsys has no service"),
        (["nameless"], "nameless.Nameless is no service: give it a class attribute `name`"),
        (["nameless:Nameless"], "give it a class attribute `name`"),
        (["nameless:Plain"], "nameless:Plain has no entrypoint"),
        (["greetings", "twin"], "two services of one runner are named"),
        (["greetings", "--define", "max_worker=1"], "did you mean max_workers?"),
        (["greetings", "--define", "max_workers=many"], "max_workers must be int"),
        (["greetings", "--define", "=1"], "--define needs KEY=VALUE"),
        (["greetings", "--broker", "localhost"], "it needs a scheme"),
        (["greetings", "--config", "nosuch.yaml"], "nosuch.yaml"),
        (["greetings", "--config", "wrong.yaml"], "wrong.yaml: unknown key AMQP_URL: did you mean"),
        (["greetings", "--nosuch"], "--nosuch"),
    ],
)
def test_what_is_wrong_is_one_line_and_exits_2(
    arguments: list[str], told: str, here: Project
) -> None:
    here.write_service()
    here.write(
        "nameless.py",
        """
        from aiorpc import rpc

        class Nameless:
            @rpc
            async def method(self): ...

        class Plain:
            name = "plain"
        """,
    )
    here.write("twin.py", "import greetings\nclass Twin(greetings.Greetings): pass\n")
    here.write("wrong.yaml", "AMQP_URL: amqp://localhost/\n")
    done = invoke("run", *arguments)
    assert done.code == 2
    assert told in done.error


@pytest.mark.rabbitmq
@pytest.mark.parametrize("part", ["user", "vhost"])
def test_a_broker_that_refuses_us_is_one_line_and_exits_2(
    part: str, project: Project, rabbitmq_uri: str
) -> None:
    project.write_service()
    host = rabbitmq_uri.rpartition("@")[2].partition("/")[0]
    url = {
        "user": f"amqp://nobody:secret@{host}/",
        "vhost": f"{rabbitmq_uri.rstrip('/')}/nowhere",
    }[part]
    done = run("run", "greetings", "--broker", url, cwd=project.directory)
    assert done.code == 2
    assert "refuses" in done.error
    assert {"user": "nobody", "vhost": "nowhere"}[part] in done.error
    assert "secret" not in done.error


# What the user's own code raises shows where


def test_a_module_that_raises_shows_its_own_frames(here: Project) -> None:
    here.write("broken.py", "def divide():\n    return 1 / 0\n\ndivide()\n")
    done = invoke("run", "broken")
    assert done.code == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "broken.py" in lines[1]  # nothing of aiorpc's or importlib's stands before it
    assert lines[-1] == "error: broken cannot be imported: ZeroDivisionError: division by zero"


def test_a_module_that_does_not_compile_shows_the_place(here: Project) -> None:
    here.write("broken.py", "def f(:\n")
    done = invoke("run", "broken")
    assert done.code == 1
    assert "broken.py" in done.stderr.splitlines()[0]
    assert "importlib" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: broken cannot be imported: SyntaxError")


def test_a_missing_import_of_a_module_is_not_a_missing_module(here: Project) -> None:
    here.write("importing.py", "import nosuch_library\n")
    done = invoke("run", "importing")
    assert done.code == 1
    assert "importing.py" in done.stderr
    assert "No module named 'nosuch_library'" in done.stderr.splitlines()[-1]


def test_a_dependency_that_fails_shows_its_own_frames(here: Project) -> None:
    here.write_service()
    here.write(
        "failing.py",
        """
        from contextlib import asynccontextmanager

        from aiorpc import DependencyProvider
        from greetings import Greetings as Base

        class Disk(DependencyProvider):
            @asynccontextmanager
            async def lifespan(self, host):
                raise OSError("no disk")
                yield

        class Failing(Base):
            disk = Disk()
        """,
    )
    done = invoke("run", "failing:Failing", *MEMORY)
    assert done.code == 1
    assert "failing.py" in done.stderr.splitlines()[1]
    assert done.stderr.splitlines()[-1] == "error: a service failed: OSError: no disk"


@pytest.mark.parametrize("arguments", [["--debug", "run", "nosuch"], ["run", "--debug", "nosuch"]])
def test_debug_shows_the_traceback(arguments: list[str], here: Project) -> None:
    done = invoke(*arguments)
    assert done.code == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "error: no module named nosuch" in done.stderr.splitlines()[-1]


# Logging


def logged_as(logging_config: dict[str, Any]) -> str:
    """What a line of a logger that was there before looks like under this configuration."""
    stream = io.StringIO()
    handler = {"class": "logging.StreamHandler", "formatter": "short", "stream": stream}
    set_up_logging(Settings(logging={**logging_config, "handlers": {"out": handler}}))
    logging.getLogger("aiorpc.hosting").info("ready")
    return stream.getvalue()


def test_logging_of_the_configuration_is_used_and_keeps_our_loggers() -> None:
    config = {
        "formatters": {"short": {"format": "LOG %(name)s %(message)s"}},
        "root": {"level": "INFO", "handlers": ["out"]},
    }
    assert logged_as(config) == "LOG aiorpc.hosting ready\n"
    assert logged_as({"version": 1, **config}) == "LOG aiorpc.hosting ready\n"


def test_wrong_logging_names_the_file_and_the_reason() -> None:
    wrong = Settings(source="x.yaml", logging={"handlers": {"a": {"class": "nosuch.Handler"}}})
    with pytest.raises(ConfigurationError) as error:
        set_up_logging(wrong)
    assert str(error.value).startswith("x.yaml: LOGGING: Unable to configure handler 'a'")
    assert "No module named 'nosuch'" in str(error.value)


# Reload


def test_reload_starts_again_when_a_file_changes(project: Project) -> None:
    pytest.importorskip("watchfiles")
    project.write_service()
    with Started("run", "greetings", "--reload", *MEMORY, cwd=project.directory) as process:
        process.waits_for("ready")
        project.write("greetings.py", "broken = 1 / 0\n")
        process.waits_for("reload: greetings.py changed")
        process.waits_for(f"{project.name} stopped")
        process.waits_for("error: greetings cannot be imported: ZeroDivisionError")
        project.write_service()
        process.waits_for("ready", times=2)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert process.output.count("SIGTERM: finishing the calls in hand") == 2
    assert "ending at once" not in process.output


def test_kill_reaches_the_child_though_there_is_a_terminal(project: Project) -> None:
    pytest.importorskip("watchfiles")
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
    assert process.output.count("SIGINT: finishing the calls in hand") == 1


def test_ctrl_c_reaches_the_child_once_though_there_is_no_terminal(project: Project) -> None:
    pytest.importorskip("watchfiles")
    project.write_slow_service(1)
    with Started("run", "slow", "--reload", *MEMORY, cwd=project.directory) as process:
        process.waits_for("ready")
        process.presses_ctrl_c()
        assert process.ends() == 0
    assert "SIGINT: finishing the calls in hand" in process.output
    assert "finished" in process.output
    assert "ending at once" not in process.output


@pytest.mark.parametrize("times", [1, 2])
def test_only_the_second_signal_ends_a_child_that_stops_for_a_reload(
    times: int, project: Project
) -> None:
    pytest.importorskip("watchfiles")
    project.write_slow_service(3)
    with Started("run", "slow", "--reload", *MEMORY, cwd=project.directory) as process:
        process.waits_for("began")
        process.waits_for("ready")
        project.write("other.py", "changed = True\n")
        process.waits_for("finishing the calls in hand")
        for _ in range(times):
            process.signal(signal.SIGTERM)
            time.sleep(0.2)  # or two would be one to the kernel
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
    pytest.importorskip("watchfiles")
    project.write_service()
    arguments = ("run", "greetings", "--reload", *MEMORY)
    with Started(*arguments, cwd=project.directory, command=with_hangup("SIG_DFL")) as process:
        process.waits_for("ready")
        process.signal(signal.SIGHUP)
        assert process.ends() == 0
    assert "SIGTERM: finishing the calls in hand" in process.output


def test_under_nohup_a_terminal_that_closes_ends_nothing(project: Project) -> None:
    pytest.importorskip("watchfiles")
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
    pytest.importorskip("watchfiles")
    project.write_service()
    arguments = ("--debug", "run", "greetings", "--reload", "--config", "nosuch.yaml")
    with Started(*arguments, cwd=project.directory) as process:
        process.waits_for("Traceback")
        process.waits_for("error: nosuch.yaml cannot be read")
        process.signal(signal.SIGTERM)
        process.ends()


def test_reload_names_a_directory_that_is_not_there(here: Project, tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    here.write_service()
    missing = str(tmp_path.parent / "nosuch" / "config.yaml")
    done = invoke("run", "greetings", "--reload", "--config", missing)
    assert done.code == 2
    assert done.error == f"{missing} cannot be read: there is no such directory"


def test_reload_without_watchfiles_names_the_extra(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    here.write_service()
    done = invoke("run", "greetings", "--reload", *MEMORY)
    assert done.code == 2
    assert done.error == "--reload needs watchfiles: pip install 'aiorpc-amqp[reload]'"

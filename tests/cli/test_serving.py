"""How ``aiorpc run`` ends: what it waits for, how long, and its exit code. How it logs."""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Any

import pytest

from aiorpc import ConfigurationError
from aiorpc.cli.logging_setup import set_up_logging
from aiorpc.config import Settings
from tests.support.command_line import Project, Started

MEMORY = ("--broker", "memory://")


def test_a_signal_lets_calls_in_progress_finish(project: Project) -> None:
    project.write_slow_service(0.5)
    command = [sys.executable, "-m", "aiorpc"]  # the same as the script
    with Started("run", "slow", *MEMORY, cwd=project.directory, command=command) as process:
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert (
        "SIGTERM: finishing the running calls (1) within 25 s; "
        "a second signal ends the process at once"
    ) in process.output
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
    assert "sync method(s) that did not return: stuck.sleep" in process.output
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


def test_a_thread_may_run_until_the_shutdown_timeout(project: Project) -> None:
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


def test_a_task_that_ignores_cancel_does_not_hold_the_process(project: Project) -> None:
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
    assert "ending without tasks that ignored cancel" in process.output


def test_a_call_that_does_not_finish_in_time_is_logged_and_exits_1(project: Project) -> None:
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
        process.waits_for("finishing the running calls")
        process.signal(signal.SIGTERM)
        assert process.ends() == 128 + signal.SIGTERM


# Logging


def logged_as(logging_config: dict[str, Any]) -> str:
    """The line that an existing logger writes under this configuration."""
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


def test_logging_and_serializers_name_classes_beside_the_service(project: Project) -> None:
    project.write_service()
    project.write(
        "beside.py",
        "import json, logging\n\n"
        "class Formatter(logging.Formatter):\n"
        "    def format(self, record): return f'mine: {record.getMessage()}'\n\n"
        "encode, decode = json.dumps, json.loads\n",
    )
    project.write(
        "config.yaml",
        "LOGGING:\n"
        "  formatters: {mine: {'()': beside.Formatter}}\n"
        "  handlers: {out: {class: logging.StreamHandler, formatter: mine}}\n"
        "  root: {level: INFO, handlers: [out]}\n"
        "SERIALIZERS:\n"
        "  own: {encoder: beside.encode, decoder: beside.decode, content_type: application/own}\n"
        "serializer: own\n",
    )
    command = ("run", "greetings", "--broker", "memory://", "--config", "config.yaml")
    with Started(*command, cwd=project.directory) as process:
        assert process.waits_for("ready").startswith(f"mine: {project.name} ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_wrong_logging_names_the_file_and_the_reason() -> None:
    wrong = Settings(source="x.yaml", logging={"handlers": {"a": {"class": "nosuch.Handler"}}})
    with pytest.raises(ConfigurationError) as error:
        set_up_logging(wrong)
    assert str(error.value).startswith("x.yaml: LOGGING: Unable to configure handler 'a'")
    assert "No module named 'nosuch'" in str(error.value)

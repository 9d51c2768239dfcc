"""``aiorpc shell``: a script in a pipe, a prompt on a terminal."""

from __future__ import annotations

import ast
import asyncio
import gc
import textwrap
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiorpc.cli.commands.shell import Console, _loop_in_thread
from aiorpc.config import Settings
from aiorpc.from_thread import Bridge
from tests.support.command_line import Project, Started, Terminal, invoke, run

MEMORY = ("--broker", "memory://")


# In a pipe


def test_a_script_from_a_pipe_runs_with_await_and_the_cluster() -> None:
    done = invoke(
        "shell",
        *MEMORY,
        stdin=textwrap.dedent(
            """
            import asyncio
            print(n.config["AMQP_URI"], await asyncio.sleep(0, "awaited"))
            reply = n.rpc.nobody.method.call_async()
            try:
                await reply
            except Exception as error:
                print(type(error).__name__)
            await n.dispatch_event("somebody", "something", {"id": 1})
            await n.dispatch_event("somebody", "something")
            "not echoed"
            """
        ),
    )
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == "memory:// awaited\nUnknownService\n"


def test_an_exception_exits_1_and_shows_the_scripts_own_frames() -> None:
    done = invoke("shell", *MEMORY, stdin="def f():\n    return 1 / 0\n\nprint('before')\nf()\n")
    assert (done.code, done.stdout) == (1, "before\n")
    lines = done.stderr.splitlines()
    assert lines[1] == '  File "<stdin>", line 5, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_script_that_does_not_compile_exits_1() -> None:
    done = invoke("shell", *MEMORY, stdin="x = (\n")
    assert done.code == 1
    assert done.stderr.splitlines()[0] == '  File "<stdin>", line 1'
    assert "SyntaxError" in done.stderr


def test_a_script_does_not_inherit_our_future_imports() -> None:
    script = "def f(x: int): ...\nprint(f.__annotations__)\n"
    assert invoke("shell", *MEMORY, stdin=script).stdout == "{'x': <class 'int'>}\n"


@pytest.mark.parametrize("number", ["inf", "nan"])
def test_a_timeout_is_a_finite_number(number: str) -> None:
    done = invoke("shell", *MEMORY, "--timeout", number)
    assert done.code == 2
    assert "--timeout" in done.error


def test_the_exit_code_of_the_script_is_kept() -> None:
    assert run("shell", *MEMORY, stdin="raise SystemExit(7)\n").code == 7


def test_a_script_calls_services(service_on_rabbitmq: Project, rabbitmq_uri: str) -> None:
    project = service_on_rabbitmq
    broker = ("--broker", rabbitmq_uri)
    with Started("run", "greetings", *broker, cwd=project.directory) as process:
        process.waits_for("ready")
        done = run(
            "shell",
            *broker,
            "--timeout",
            "5",
            stdin=f"print(await n.rpc.{project.name}.add(1, b=2))\n",
        )
    assert (done.code, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_broker_that_is_not_there_exits_5(closed_port: int) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{closed_port}/"
    done = invoke("shell", "--broker", url, "--timeout", "0.3")
    assert done.code == 5
    assert "no connection to" in done.error


def test_a_broker_that_stops_answering_exits_5(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def silent(settings: Settings) -> AsyncGenerator[None]:
        await asyncio.sleep(60)
        yield

    monkeypatch.setattr("aiorpc.cli.commands.shell.event_dispatcher", silent)
    monkeypatch.setattr("aiorpc.cli.commands.shell.CONNECT_TIMEOUT", 0.1)
    done = invoke("shell", *MEMORY)
    assert done.code == 5
    assert done.error == "memory:// did not answer within 0.2 s"


# On a terminal


class Prompt(Terminal):
    """``aiorpc shell`` on a pseudo-terminal."""

    def __init__(self, cwd: Path, startup: Path) -> None:
        super().__init__("shell", *MEMORY, cwd=cwd, env={"PYTHONSTARTUP": str(startup)})

    def types(self, line: str) -> str:
        """Type *line*, and return the output up to the next prompt."""
        self.sends(f"{line}\n".encode())
        return self.reads_until(">>> ").partition("\n")[2].removesuffix(">>> ")

    def leaves(self, key: bytes) -> int:
        self.sends(key)
        return self.ends()


@pytest.fixture
def terminal(project: Project) -> Iterator[Prompt]:
    startup = project.write("startup.py", "greeting = 'from PYTHONSTARTUP'\n")
    terminal = Prompt(project.directory, startup)
    yield terminal
    terminal.close()


def test_a_prompt_evaluates_awaits_and_ctrl_c_cancels_them(terminal: Prompt) -> None:
    banner = terminal.reads_until(">>> ")
    assert "memory://" in banner
    assert "await n.rpc.service.method" in banner
    assert terminal.types("greeting") == "'from PYTHONSTARTUP'\n"
    assert terminal.types("import asyncio") == ""
    assert terminal.types("await asyncio.sleep(0, 'slept')") == "'slept'\n"
    assert terminal.types("n.rpc.nobody.method.call_async()") == "<RpcReply pending>\n"
    failed = terminal.types("await n.rpc.nobody.method()")
    assert failed.splitlines()[1] == '  File "<console>", line 1, in <module>'
    assert "aiorpc.exceptions.UnknownService" in failed
    assert "SyntaxError" in terminal.types("1 +")
    # Ctrl-C cancels the await, and the prompt stays.
    terminal.sends(b"await asyncio.sleep(60)\n")
    terminal.reads_until("60)\n")
    assert "KeyboardInterrupt" in terminal.presses_ctrl_c("KeyboardInterrupt\n>>> ")
    assert terminal.types("len(asyncio.all_tasks()) < 20") == "True\n"
    assert terminal.leaves(b"exit(3)\n") == 3


def test_ctrl_c_before_a_line_has_begun_leaves_no_coroutine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python would warn that the line was never awaited; warnings are errors here."""
    with _loop_in_thread() as loop:
        console = Console(Bridge(loop), {})
        line = compile("await nothing", "<console>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

        def interrupted(callback: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_soon_threadsafe", interrupted)
            with pytest.raises(KeyboardInterrupt):
                console.run(line)
        gc.collect()
        with pytest.raises(NameError):
            console.run(line)


def test_texts_of_a_peer_cannot_control_the_terminal(terminal: Prompt) -> None:
    terminal.reads_until(">>> ")
    line = r"""raise __import__("aiorpc").RemoteError("E\x1b[2J", "one\ntwo\x9b31m")"""
    shown = terminal.types(line)
    assert r"RemoteError: E\x1b[2J one" in shown
    assert r"    | two\x9b31m" in shown
    assert not {"\x1b", "\x9b"} & set(shown)


def test_ctrl_d_leaves_the_shell(terminal: Prompt) -> None:
    terminal.reads_until(">>> ")
    assert terminal.leaves(b"\x04") == 0


def test_a_line_that_blocks_does_not_keep_the_shell_open(terminal: Prompt) -> None:
    terminal.reads_until(">>> ")
    terminal.sends(b"import time; print('runs', flush=True); time.sleep(600)\n")
    terminal.reads_until("runs\n")  # the echo of the terminal comes earlier than this output
    terminal.presses_ctrl_c("KeyboardInterrupt\n>>> ")
    assert terminal.leaves(b"\x04") == 130

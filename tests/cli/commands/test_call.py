"""``aiorpc call``: a result on stdout, or one line on stderr, and an exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from aiorpc import RpcTimeout, ServiceContainer, UnknownService, rpc
from aiorpc.cli.calls import Wanted
from aiorpc.cli.commands.call import call_once
from aiorpc.config import resolve
from tests.support.command_line import Done, Project, Started, invoke, run


class Echo:
    name = "echo"

    @rpc
    async def echo(self, *args: object, **kwargs: object) -> object:
        return [args, kwargs]

    @rpc
    async def nap(self) -> None:
        await asyncio.sleep(60)


@pytest.mark.alone  # milliseconds count
async def test_a_call_is_made_with_its_arguments_and_context() -> None:
    settings = resolve("memory://cli-call")
    async with ServiceContainer(Echo, settings):
        result = await call_once(settings, Wanted("echo", "echo", [1, "two"], {"three": 3}))
        assert result == [[1, "two"], {"three": 3}]
        with pytest.raises(RpcTimeout, match=r"within 0\.05 s"):
            await call_once(settings, Wanted("echo", "nap", timeout=0.05))
    with pytest.raises(UnknownService):
        await call_once(settings, Wanted("nobody", "echo"))


@pytest.mark.alone  # milliseconds count
async def test_the_timeout_of_the_settings_is_the_default() -> None:
    settings = resolve({"AMQP_URI": "memory://cli-timeout", "RPC_TIMEOUT": 0.05})
    async with ServiceContainer(Echo, settings):
        with pytest.raises(RpcTimeout, match=r"within 0\.05 s"):
            await call_once(settings, Wanted("echo", "nap"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "arguments are required: SERVICE.METHOD"),
        (["service_x"], "write SERVICE.METHOD"),
        ([".method"], "write SERVICE.METHOD"),
        (["service_x."], "write SERVICE.METHOD"),
        (["s.m", "hello"], "ARGS must be a JSON array"),
        (["s.m", '"hello"'], "ARGS must be a JSON array"),
        (["s.m", '["hello"'], "ARGS must be a JSON array"),
        (["s.m", '{"a": 1}', '{"b": 1}'], "ARGS must be a JSON array"),
        (["s.m", "[]", "[1]"], "KWARGS must be a JSON object"),
        (["s.m", "--context", "language"], "--context needs KEY=VALUE"),
        (["s.m", "--context", "name=\udce4"], "is not UTF-8"),
        (["s.m", "--context", "\udce4=1"], "is not UTF-8"),
        (["s.m", "--timeout", "0"], "--timeout"),
        (["s.m", "--timeout", "inf"], "inf is not a finite number"),
        (["s.m", "--timeout", "soon"], "--timeout"),
        (["s.m", "--broker", "memory://"], "memory:// only reaches its own process"),
    ],
)
def test_a_mistake_is_one_line_and_exits_2(arguments: list[str], text: str) -> None:
    done = invoke("call", *arguments)
    assert done.code == 2
    assert text in done.error


def test_a_broker_that_is_not_there_exits_5(closed_port: int) -> None:
    url = f"amqp://guest:secret@127.0.0.1:{closed_port}/"
    done = invoke("call", "s.m", "--broker", url, "--timeout", "0.3")
    assert done.code == 5
    assert "no connection to amqp://guest:***@127.0.0.1" in done.error
    assert "within 0.3 s: the connection was refused: start the broker" in done.error


@pytest.fixture
def called(service_on_rabbitmq: Project, rabbitmq_uri: str) -> Iterator[Project]:
    arguments = ("run", "greetings", "--broker", rabbitmq_uri)
    with Started(*arguments, cwd=service_on_rabbitmq.directory) as process:
        process.waits_for("ready")
        yield service_on_rabbitmq


def test_results_and_errors_as_a_script_sees_them(called: Project, rabbitmq_uri: str) -> None:
    """One test for all: starting the processes takes most of its time."""

    def call(method: str, *arguments: str) -> Done:
        return run("call", f"{called.name}.{method}", *arguments, "--broker", rabbitmq_uri)

    done = call("echo", '["hello", 1]', '{"n": null}')
    assert (done.code, done.stdout, done.stderr) == (0, '[["hello",1],{"n":null}]\n', "")

    done = call("add", '{"a": 1, "b": 2}')  # keyword arguments only
    assert (done.code, done.stdout) == (0, "3\n")

    done = call("birthday")
    assert json.loads(done.stdout) == {"born": "1815-12-10", "name": "Ada ∞"}

    done = call("whoami", "--context", "language=fi", "--context", "user=42")
    assert json.loads(done.stdout).items() >= {"language": "fi", "user": 42}.items()

    done = call("count", "[2]", "--stream")
    assert (done.code, done.stdout) == (0, '{"number":0}\n{"number":1}\n')

    done = call("count", "[2]")
    assert (done.code, done.stdout) == (0, '[{"number":0},{"number":1}]\n')

    done = call("fail", "--stream")
    assert done.code == 2
    assert "returns one result and is not a stream" in done.error

    done = call("fail")
    assert (done.code, done.error) == (1, f"{called.name}.fail raised ValueError: no such person")

    done = call("nosuch")
    assert done.code == 2
    assert done.error == f"{called.name} has no method nosuch with @rpc"

    done = call("add", '["one"]')
    assert done.code == 2
    assert done.error.startswith(f"{called.name}.add: argument 'a' must be int, got str")

    done = call("add")
    assert done.code == 2
    assert done.error.startswith(f"{called.name}.add: ")
    assert "missing 1 required positional argument: 'a'" in done.error

    done = call("nap", "--timeout", "0.2")
    assert done.code == 4
    assert f"{called.name}.nap gave no answer within 0.2 s" in done.error

    done = run("call", "nobody_ever.method", "--broker", rabbitmq_uri)
    assert done.code == 3
    assert "no queue takes nobody_ever.method" in done.error

    done = run("call", f"{called.name}.fail", "--broker", rabbitmq_uri, "--debug")
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.stderr

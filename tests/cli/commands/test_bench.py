"""``aiorpc bench``: the service that it loads, what it prints, and its exit codes."""

from __future__ import annotations

import json
import signal

import pytest

from aiorpc import BadArguments, MethodNotFound, ServiceContainer, UnknownService, rpc
from aiorpc.cli.calls import Wanted
from aiorpc.cli.commands.bench import measure_service
from aiorpc.cli.measurement import Plan, report_of
from aiorpc.config import resolve
from tests.support.command_line import Done, Project, Started, invoke, run


def plan(in_flight: int = 1, rate: float | None = None, duration: float = 0.1) -> Plan:
    return Plan(in_flight=in_flight, rate=rate, duration=duration)


class Target:
    name = "target"

    @rpc
    async def echo(self, value: str) -> str:
        return value

    @rpc
    async def fail(self) -> None:
        raise ValueError("no")


async def test_a_service_is_measured() -> None:
    settings = resolve("memory://cli-bench")
    async with ServiceContainer(Target, settings):
        found = await measure_service(
            settings, Wanted("target", "echo", ["hello"]), plan(in_flight=3, duration=0.05)
        )
        report = report_of("target.echo", found)
        assert report.results == report.calls > 3
        assert report.errors == {}
        assert report.latency_ms is not None
        figures = report.latency_ms
        assert list(figures) == ["min", "mean", "p50", "p95", "p99", "max"]
        assert 0 < figures["min"] <= figures["mean"] <= figures["max"]
        assert figures["min"] <= figures["p50"] <= figures["p95"] <= figures["p99"]
        assert figures["p99"] <= figures["max"]

        found = await measure_service(settings, Wanted("target", "fail"), plan(duration=0.02))
        assert set(found.failures) == {"ValueError"}


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (Wanted("nobody", "echo"), UnknownService),
        (Wanted("target", "nosuch"), MethodNotFound),
        (Wanted("target", "echo", [1]), BadArguments),
    ],
)
async def test_a_method_that_cannot_be_called_is_not_measured(
    wanted: Wanted, error: type[Exception]
) -> None:
    settings = resolve("memory://cli-bench-wrong")
    async with ServiceContainer(Target, settings):
        with pytest.raises(error):
            await measure_service(settings, wanted, plan(duration=1000))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "arguments are required: SERVICE.METHOD"),
        (["service_x"], "write SERVICE.METHOD"),
        (["s.m", "hello"], "ARGS must be a JSON array"),
        (["s.m", "--in-flight", "0"], "--in-flight"),
        (["s.m", "--rate", "0"], "--rate"),
        (["s.m", "--duration", "never"], "--duration"),
        (["s.m", "--broker", "memory://"], "memory:// only reaches its own process"),
        (["s.m", "--rate", "inf"], "--rate"),
        (["s.m", "--rate", "nan"], "--rate"),
        (["s.m", "--duration", "inf"], "inf is not a finite number"),
    ],
)
def test_a_mistake_is_one_line_and_exits_2(arguments: list[str], text: str) -> None:
    done = invoke("bench", *arguments)
    assert done.code == 2
    assert text in done.error


def test_figures_are_printed_as_text_or_as_json(
    service_on_rabbitmq: Project, rabbitmq_uri: str
) -> None:
    project = service_on_rabbitmq
    broker = ("--broker", rabbitmq_uri)

    def bench(method: str, *arguments: str) -> Done:
        return run("bench", f"{project.name}.{method}", *arguments, "--duration", "0.2", *broker)

    with Started("run", "greetings", *broker, cwd=project.directory) as process:
        process.waits_for("ready")

        done = bench("echo", '["hello"]')
        assert (done.code, done.stderr) == (0, "")
        first, results, latency = done.stdout.splitlines()
        assert first.startswith(f"{project.name}.echo: ")
        assert first.endswith(" s, 10 in flight at most")
        assert results.endswith(" per second")
        assert latency.split()[1::2] == ["min", "mean", "p50", "p95", "p99", "max", "ms"]

        done = bench("fail", "--rate", "50", "--json")
        assert (done.code, done.stderr) == (1, "")
        report = json.loads(done.stdout)
        assert report["calls"] == 10
        assert report["latency_ms"] is None
        assert report["errors"] == {"ValueError": {"count": 10, "first": "no such\nperson"}}

        done = bench("nosuch")
        assert done.code == 2
        assert done.error == f"{project.name} has no method nosuch with @rpc"


def test_ctrl_c_ends_it_with_the_figures_so_far(
    service_on_rabbitmq: Project, rabbitmq_uri: str
) -> None:
    project = service_on_rabbitmq
    project.write(
        "greetings.py",
        f"""
        from aiorpc import rpc


        class Greetings:
            name = {project.name!r}

            @rpc
            async def tell(self):
                print("called", flush=True)
        """,
    )
    broker = ("--broker", rabbitmq_uri)
    arguments = ("bench", f"{project.name}.tell", "--rate", "50", "--duration", "1000", *broker)
    with Started("run", "greetings", *broker, cwd=project.directory) as process:
        process.waits_for("ready")
        with Started(*arguments, cwd=project.directory) as measuring:
            process.waits_for("called", times=3)  # the first call is not measured
            measuring.signal(signal.SIGINT)
            assert measuring.ends() == 130
    assert "50 calls/s wanted" in measuring.output
    assert "Traceback" not in measuring.output

"""``aiorpc run``: its output, and its errors. How it ends is in ``test_serving``."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.command_line import PATIENCE, Project, Started, invoke, run

MEMORY = ("--broker", "memory://")


def test_one_line_when_ready_and_one_when_stopped(project: Project) -> None:
    project.write_service()
    with Started("run", "greetings", *MEMORY, cwd=project.directory) as process:
        line = process.waits_for("ready")
        process.signal(signal.SIGINT)
        assert process.ends() == 0
    assert "INFO" in line
    assert (
        f"{project.name} ready: methods add, birthday, count, echo, fail, nap, whoami; "
        f"queues rpc-{project.name}; broker memory://"
    ) in line
    assert "SIGINT: finishing the running calls" in process.output
    assert f"{project.name} stopped" in process.output.splitlines()[-1]
    assert "Traceback" not in process.output


def test_run_imports_no_library_that_it_does_not_need(project: Project) -> None:
    project.write(
        "lean.py",
        "import sys\nfrom aiorpc import once\n\n"
        "class Lean:\n    name = 'lean'\n\n    @once\n    def look(self):\n"
        "        heavy = {'rich', 'watchfiles', 'pydantic', 'yaml', 'sqlalchemy', 'starlette'}\n"
        "        sys.stdout.write(f'loaded: {sorted(heavy & set(sys.modules))}\\n')\n"
        "        sys.stdout.flush()\n",
    )
    command = ("run", "lean", "--broker", "memory://")
    with Started(*command, cwd=project.directory) as process:
        assert process.waits_for("loaded:").endswith("loaded: []")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_run_waits_for_the_broker_and_says_so(project: Project, closed_port: int) -> None:
    project.write_service()
    url = f"amqp://guest:secret@127.0.0.1:{closed_port}/"
    with Started("run", "greetings", "--broker", url, cwd=project.directory) as process:
        line = process.waits_for("still connecting")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert f"amqp://guest:***@127.0.0.1:{closed_port}/" in line
    assert "refused" in line.lower()
    assert "secret" not in process.output


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "arguments are required: MODULE[:CLASS]"),
        (["nosuch"], "no module named nosuch in "),
        (["json.nosuch"], "no module named json.nosuch in package json"),
        (["greetings:Nobody"], "greetings has no class 'Nobody'; it has Greetings"),
        (["greetings:asyncio"], "greetings:asyncio is not a class but a value of type module"),
        (["greetings.py"], "write greetings"),
        (["./greetings.py:Greetings"], "write greetings:Greetings"),
        (["greet-ings!"], "no module named greet-ings!"),
        ([":Greetings"], "'' is not the name of a module"),
        (["colorsys"], "colorsys has no service"),
        (["nameless"], "nameless.Nameless is not a service: give it a class attribute `name`"),
        (["nameless:Nameless"], "give it a class attribute `name`"),
        (["nameless:Plain"], "nameless:Plain has no entrypoint"),
        (["greetings", "twin"], "two services of one runner are named"),
        (["greetings", "--define", "max_worker=1"], "did you mean max_workers?"),
        (["greetings", "--define", "max_workers=many"], "max_workers must be int"),
        (["greetings", "--define", "=1"], "--define needs KEY=VALUE"),
        (["greetings", "--broker", "localhost"], "the URL needs a scheme"),
        (["greetings", "--config", "nosuch.yaml"], "nosuch.yaml"),
        (["greetings", "--config", "wrong.yaml"], "wrong.yaml: unknown key AMQP_URL: did you mean"),
        (["greetings", "--nosuch"], "--nosuch"),
    ],
)
def test_a_mistake_is_one_line_and_exits_2(arguments: list[str], text: str, here: Project) -> None:
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
    assert text in done.error


@pytest.mark.parametrize("part", ["user", "vhost"])
def test_a_broker_that_refuses_the_connection_is_one_line_and_exits_2(
    part: str, project: Project, rabbitmq_uri: str
) -> None:
    project.write_service()
    host = rabbitmq_uri.rpartition("@")[2].partition("/")[0]
    url = {
        "user": f"amqp://nobody:secret@{host}/",
        "vhost": f"{rabbitmq_uri.rstrip('/')}/nowhere",
    }[part]
    # A vhost may be made later, but wrong credentials stay wrong.
    options = ["--fail-fast"] if part == "vhost" else []
    done = run("run", "greetings", "--broker", url, *options, cwd=project.directory)
    assert done.code == 2
    assert "refuses" in done.error
    assert {"user": "nobody", "vhost": "nowhere"}[part] in done.error
    assert "secret" not in done.error


def test_run_waits_for_a_vhost_and_says_so(project: Project, rabbitmq_uri: str) -> None:
    project.write_service()
    url = f"{rabbitmq_uri.rstrip('/')}/nowhere"
    with Started("run", "greetings", "--broker", url, cwd=project.directory) as process:
        assert "refuses vhost 'nowhere'" in process.waits_for("still connecting")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


# Errors of the user's own code


def test_a_module_that_raises_shows_its_own_frames(here: Project) -> None:
    here.write("broken.py", "def divide():\n    return 1 / 0\n\ndivide()\n")
    done = invoke("run", "broken")
    assert done.code == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "broken.py" in lines[1]  # nothing of aiorpc's or importlib's stands before it
    assert lines[-1] == "error: importing broken failed: ZeroDivisionError: division by zero"


def test_a_module_that_does_not_compile_shows_the_place(here: Project) -> None:
    here.write("broken.py", "def f(:\n")
    done = invoke("run", "broken")
    assert done.code == 1
    assert "broken.py" in done.stderr.splitlines()[0]
    assert "importlib" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: importing broken failed: SyntaxError")


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


def test_run_serves_http_and_finishes_a_request_after_sigterm(project: Project) -> None:
    project.write(
        "web.py",
        "import asyncio\nfrom aiorpc.http import http\n\n"
        "class Web:\n    name = 'web'\n\n    @http('GET', '/slow')\n    async def slow(self):\n"
        "        print('begun')\n        await asyncio.sleep(0.3)  # for the signal\n"
        "        return 'finished'\n",
    )
    address = ("--define", "WEB_SERVER_ADDRESS=127.0.0.1:0")
    command = ("run", "web", "--broker", "memory://", *address)
    with Started(*command, cwd=project.directory) as process:
        url = process.waits_for("HTTP on ").rpartition(" ")[2].strip()
        assert "methods slow (GET /slow)" in process.waits_for("ready")
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(httpx.get, f"{url}/slow", timeout=PATIENCE, verify=False)
            process.waits_for("begun")
            process.signal(signal.SIGTERM)
            assert asked.result().text == "finished"
        assert process.ends() == 0
    assert "Traceback" not in process.output

"""
Runs the code blocks of one page in order, as a reader would; :class:`Reader` says how. Each page
has its own ``memory://`` broker, in place of the URL that the page shows.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tokenize
import types
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from aiorpc import ServiceRunner
from aiorpc.cli.loading import load_services
from aiorpc.config import load

from .commands import check_command
from .markdown import ROOT, Block, page_id

#: The URL of RabbitMQ in the pages.
RABBITMQ = "amqp://guest:guest@localhost/"
#: A ``memory://`` without a name in the pages.
_MEMORY = re.compile(r"memory://(?=[\"'\s]|$)")
#: Options that a reader does not need: pytest-asyncio warns without a scope of fixture loops, and
#: hypothesis and schemathesis take 1 s each to import.
_PYTEST_OPTIONS = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
_PYTEST_OPTIONS += ("-p", "no:schemathesis")
_PYTEST_OPTIONS += ("-o", "asyncio_default_fixture_loop_scope=function")
if not any(entry.name == "aiorpc" for entry in entry_points(group="pytest11")):
    _PYTEST_OPTIONS += ("-p", "aiorpc.testing.plugin")  # this tree is not installed
_PROGRAMS = {
    "python": (),
    "pytest": ("-m", "pytest", *_PYTEST_OPTIONS),
    "aiorpc": ("-m", "aiorpc"),
}
#: Seconds that a program of a page may take.
PROGRAM_TIMEOUT = 20


class Reader:
    """
    Follows one page, block by block:

    - ``python`` is executed, with top-level ``await``, in one namespace for the whole page;
    - ``python`` whose first line names a file (``# greetings.py``) is written to that file, which
      later blocks import or run;
    - ``sh`` is read line by line: ``python FILE``, ``pytest``, ``pytest FILE``, ``cd``, ``aiorpc
      new`` and ``aiorpc contract MODULE`` are run. ``aiorpc run MODULE ...`` hosts the services on
      the page's broker for the rest of the page. Of other ``aiorpc``, ``make`` and ``pip``
      commands, names and options are checked;
    - ``yaml`` is loaded as a configuration;
    - ``json`` is parsed; of the configuration of an agent, the commands are checked;
    - ``ini`` is written to the file that its first line names (``# pytest.ini``);
    - ``text`` directly after one of these is its output (``...`` stands for any text). In any other
      ``text``, the commands after ``$ aiorpc`` are checked;
    - an expression with a literal in a comment after it (``1 + 1  # 2``) must have that value.
    """

    def __init__(self, page: Path, directory: Path) -> None:
        self.home = self.directory = directory
        name = re.sub(r"\W", "_", page_id(page)).lower()
        self.broker = f"memory://{name}"
        self.module = types.ModuleType(f"page_{name}")
        self.written: dict[str, Block] = {}
        self.used: set[str] = set()
        self._hosted: list[tuple[set[type], AsyncExitStack]] = []

    async def __aenter__(self) -> Reader:
        self._path, self._modules = sys.path.copy(), set(sys.modules)
        sys.path.insert(0, str(self.directory))
        sys.modules[self.module.__name__] = self.module
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for _, stack in reversed(self._hosted):
            await stack.aclose()
        sys.path[:] = self._path
        for name in set(sys.modules) - self._modules:
            if self._is_of_page(name):
                del sys.modules[name]

    def _is_of_page(self, name: str) -> bool:
        file = getattr(sys.modules[name], "__file__", None) or ""
        return file.startswith(str(self.home)) or sys.modules[name] is self.module

    def on_own_broker(self, code: str) -> str:
        return _MEMORY.sub(self.broker, code.replace(RABBITMQ, self.broker))

    async def follow(self, block: Block) -> None:
        run = {"python": self._python, "sh": self._sh, "yaml": self._yaml, "text": self._text}
        run |= {"ini": self._ini, "json": self._json}
        assert block.language in run, f"{block.place}: no way to test {block.language!r} blocks"
        await run[block.language](block)

    # Python

    async def _python(self, block: Block) -> None:
        if (name := block.file_name) and not name.startswith("services/"):
            self._write(name, block)
            return
        code = _compile(self.on_own_broker(block.code), block)
        with self.printed(block):
            waiting = eval(code, self.module.__dict__)
            if asyncio.iscoroutine(waiting):
                await waiting
        self._imports(block)

    def _write(self, name: str, block: Block) -> None:
        compile(block.code, block.place, "exec", dont_inherit=True)
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.on_own_broker(block.code), encoding="utf-8")
        sys.modules.pop(name.removesuffix(".py"), None)
        importlib.invalidate_caches()
        self.written[name] = block
        self.used.discard(name)

    def _imports(self, block: Block) -> None:
        """Record that a block uses the files that it imports, or a configuration in it names."""
        for name in re.findall(
            r"(?:^(?:from|import) |\"(?=\w+:\w))(\w+)", block.code, re.MULTILINE
        ):
            file = f"{name}.py"
            if file in self.written and file not in self.used:
                self.used.add(file)
                self._imports(self.written[file])

    # The shell

    async def _sh(self, block: Block) -> None:
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:  # a variable of the environment
                del words[0]
            if not words:
                continue
            if words[0] == "cd":
                self.directory /= words[1]
                os.chdir(self.directory)
                sys.path.insert(0, str(self.directory))
            elif words[:2] == ["aiorpc", "run"]:
                check_command(words, block.place)
                await self._host(words[2:])
            elif words[:2] == ["aiorpc", "new"] or self._runs_written(words):
                await asyncio.to_thread(self._program, words, block)
            else:
                check_command(words, block.place)

    async def _host(self, words: list[str]) -> None:
        targets = []
        for word in words:
            if word.startswith("-"):
                break
            targets.append(word)
            if (file := f"{word.partition(':')[0]}.py") in self.written:
                self.used.add(file)
                self._imports(self.written[file])
        services = set(load_services(targets))
        names = {service.name for service in services}
        for hosted, stack in self._hosted:  # a reader stopped the first one by Ctrl-C
            if names & {service.name for service in hosted}:
                await stack.aclose()
        stack = AsyncExitStack()
        await stack.enter_async_context(ServiceRunner(*services, config=self.broker))
        self._hosted.append((services, stack))

    def _runs_written(self, words: list[str]) -> bool:
        if words[:2] == ["aiorpc", "contract"]:
            return f"{words[2]}.py" in self.written
        return words == ["pytest"] or (words[0] in _PROGRAMS and words[1] in self.written)

    def _program(self, words: list[str], block: Block) -> None:
        """Run ``python FILE``, ``pytest FILE`` or a command of aiorpc in its own process."""
        read = {*words, *(["conftest.py"] if words[0] == "pytest" else [])}
        for file in self.written.keys() & read:
            self.used.add(file)
            self._imports(self.written[file])
        done = subprocess.run(
            [sys.executable, *_PROGRAMS[words[0]], *words[1:]],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}: {done.stdout}{done.stderr}"
        if block.output is not None:
            self.compare(done.stdout, block)

    # Output

    @contextmanager
    def printed(self, block: Block) -> Iterator[None]:
        """Compare what the block prints with what the page shows, if it shows output."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            yield
        if block.output is not None:
            self.compare(out.getvalue(), block)

    def compare(self, printed: str, block: Block) -> None:
        printed, told = _stripped(printed.replace(self.broker, "memory://")), block.output or ""
        pattern = re.escape(_stripped(told)).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, printed, re.DOTALL), (
            f"{block.place} prints\n{printed}\nand the page says\n{told}"
        )

    # The rest

    async def _yaml(self, block: Block) -> None:
        path = self.directory / "config.yaml"
        path.write_text(block.code, encoding="utf-8")
        load(path, environ={})

    async def _ini(self, block: Block) -> None:
        name = block.code.partition("\n")[0].removeprefix("# ")
        assert name == "pytest.ini", f"{block.place}: which file is it?"
        (self.directory / name).write_text(block.code, encoding="utf-8")

    async def _json(self, block: Block) -> None:
        for server in json.loads(block.code).get("mcpServers", {}).values():
            check_command([server["command"], *server["args"]], block.place)

    async def _text(self, block: Block) -> None:
        """Check the commands of a transcript (``$ aiorpc ...``). Other text is a picture."""
        for line in block.code.splitlines():
            if line.startswith("$ aiorpc "):
                check_command(shlex.split(line.removeprefix("$ "), comments=True), block.place)


def _compile(code: str, block: Block) -> Any:
    """Compile the code with checks of the values in comments. Tracebacks show lines of the page."""
    tree = _ValuesInComments(code).visit(ast.parse(code, block.place))
    ast.increment_lineno(ast.fix_missing_locations(tree), block.line - 1)
    # Without dont_inherit, the block would have the __future__ import of this file.
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(tree, str(block.page), "exec", flags=flags, dont_inherit=True)


class _ValuesInComments(ast.NodeTransformer):
    """``f(x)  # 3`` -> ``equal(f(x), 3)``"""

    def __init__(self, code: str) -> None:
        self._literals = dict(_literals_in_comments(code))

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        literal = self._literals.get(node.end_lineno or 0)
        if literal is None:
            return node
        here = f"__import__({__name__!r}, fromlist=['_'])"
        check = ast.parse(f"{here}.equal(0, {literal})", mode="eval").body
        assert isinstance(check, ast.Call)
        check.args[0] = node.value
        node.value = check
        return node


def _literals_in_comments(code: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.removeprefix("#").strip()
            try:
                ast.literal_eval(text)
            except (ValueError, SyntaxError):
                continue
            yield token.start[0], text


def equal(value: Any, told: Any) -> None:
    assert value == told, f"the page says {told!r}, it is {value!r}"


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())

"""``aiorpc new``: writes a directory with a service, its configuration and its test."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

from ...exceptions import ConfigurationError
from ..output import ExitCode
from ..parser import Parser

__all__ = ["configure", "execute"]

ARGUMENTS = "NAME"

DESCRIPTION = """\
The command never overwrites a file or a directory."""

EXAMPLES = """\
  $ aiorpc new greetings && cd greetings && pytest
"""

SERVICE = Template('''\
"""The service ``$name``."""

from aiorpc import rpc


class $class_name:
    name = "$name"

    @rpc
    async def hello(self, name: str) -> str:
        return f"Hello, {name}!"
''')

CONFIG = """\
# Keys are Nameko's; `aiorpc show-config --config config.yaml --defaults` lists all of them.
AMQP_URI: ${AMQP_URI:amqp://guest:guest@localhost/}
max_workers: 100
"""

TEST = Template('''\
"""Tests for `pytest`. They need no server."""

import asyncio

from $module import $class_name

from aiorpc import ClusterRpcProxy, ServiceContainer

BROKER = "memory://"


def test_hello() -> None:
    """Calls the method directly, because a service is a plain class."""
    assert asyncio.run($class_name().hello("Ada")) == "Hello, Ada!"


def test_hello_is_answered() -> None:
    """Calls the method as another service would."""

    async def call() -> str:
        async with ServiceContainer($class_name, BROKER), ClusterRpcProxy(BROKER) as cluster:
            return await cluster["$name"].hello("Ada")

    assert asyncio.run(call()) == "Hello, Ada!"
''')


#: Other names that the generated test imports.
OF_THE_TEST = ("ClusterRpcProxy", "ServiceContainer")


def configure(parser: Parser) -> None:
    text = "Name of the service: a letter, then letters, digits, _ and -."
    parser.add_argument("name", metavar="NAME", help=text)


def execute(arguments: argparse.Namespace) -> int:
    """Write the files, and print what to do next."""
    name: str = arguments.name
    module, class_name = _module_and_class(name)
    names = {"name": name, "module": module, "class_name": class_name}
    directory = Path(name)
    files = {
        f"{module}.py": SERVICE.substitute(names),
        "config.yaml": CONFIG,
        f"test_{module}.py": TEST.substitute(names),
    }
    try:
        directory.mkdir()
        for file, content in files.items():
            (directory / file).write_text(content, encoding="utf-8")
    except FileExistsError:
        raise ConfigurationError(f"{directory.absolute()} exists already") from None
    except OSError as error:
        raise ConfigurationError(f"{directory.absolute()}: {error.strerror}") from None
    print(f"made {directory}/ with {', '.join(files)}\n")
    steps = {
        f"cd {name}": "",
        "pytest": "without a server",
        f"aiorpc run {module} --config config.yaml": "on $AMQP_URI, or localhost",
        f"""aiorpc call {name}.hello '["Ada"]' --config config.yaml""": "in another terminal",
    }
    width = max(map(len, steps))
    for step, why in steps.items():
        print(f"  {step:{width}}   # {why}" if why else f"  {step}")
    return ExitCode.OK


def _module_and_class(name: str) -> tuple[str, str]:
    """
    Return the names of the module and the class for the service *name*.

    Raises:
        ConfigurationError: *name* cannot name a service, or would hide another module.
    """
    module = name.replace("-", "_").lower()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or keyword.iskeyword(module):
        raise ConfigurationError(
            f"{name!r} cannot name a service and its module: use letters, digits, _ and -, with a "
            "letter first, and not a keyword of Python"
        )
    class_name = "".join(part[:1].upper() + part[1:] for part in re.split("[_-]", name))
    if keyword.iskeyword(class_name) or class_name in OF_THE_TEST:
        raise ConfigurationError(
            f"the name {class_name} for the class of {name!r} is already used: choose another "
            f"name, such as {name}_service"
        )
    if importlib.util.find_spec(module) is not None:
        raise ConfigurationError(
            f"the new module would hide an existing module named {module}: choose another name, "
            f"such as {module}_service"
        )
    return module, class_name

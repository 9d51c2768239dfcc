"""
Reads YAML and TOML and substitutes environment variables in them, as Nameko does.

Reads the file and the environment. Knows no setting by name. Imports ``exceptions`` and PyYAML.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..exceptions import ConfigurationError

__all__ = ["Environment", "parse_yaml", "read_file"]

_NAME = re.compile(r"[^{}:\s]+")
# Values may name further variables. Deeper than this, they refer to one another in a circle.
_MAX_EXPANSIONS = 10


class Environment:
    """Environment variables, and a record of those that a file names and that are not set."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.variables = os.environ if variables is None else variables
        self.unset: list[str] = []
        #: Text after substitution -> the variables that were missing in it.
        self.incomplete: dict[str, list[str]] = {}

    def substitute(self, text: str) -> str:
        """Replace each ``${NAME}`` and ``${NAME:default}`` in *text*, but none in their values."""
        known = len(self.unset)
        result = self._substitute(text)
        if missing := self.unset[known:]:
            self.incomplete[result] = missing
        return result

    def _substitute(self, text: str) -> str:
        pieces = []
        position = 0
        while (start := text.find("${", position)) >= 0:
            name, default, end = _reference(text, start)
            pieces.append(text[position:start])
            pieces.append(text[start:end] if name is None else self._value(name, default))
            position = end
        return "".join(pieces) + text[position:]

    def _value(self, name: str, default: str | None) -> str:
        value = self.variables.get(name)
        if value is not None:
            return value
        if default is None:
            self.unset.append(name)
            return ""
        return self._substitute(default)


def read_file(path: str, environment: Environment) -> Any:
    """
    Return the content of a YAML file, or of a TOML file by its suffix, with variables substituted.

    Raises:
        ConfigurationError: names the file, and never quotes the value of a variable.
    """
    parse = parse_toml if path.endswith(".toml") else parse_yaml
    return parse(_read_text(path), environment, path)


def parse_toml(text: str, environment: Environment, source: str) -> Any:
    """Parse TOML. It quotes all strings, so each one with ``${`` is treated as a plain scalar."""
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source} is not valid TOML: {error}") from None
    return _expand_strings(content, environment, source)


def parse_yaml(text: str, environment: Environment, source: str, depth: int = 0) -> Any:
    """Parse YAML with Nameko's substitution. ``depth`` counts the expansions that led here."""
    if depth > _MAX_EXPANSIONS:
        raise ConfigurationError(
            f"{source}: environment variables refer to each other more than {_MAX_EXPANSIONS} deep,"
            " probably in a circle"
        )
    loader = None
    try:
        loader = _yaml_loader()(text)
        loader.expand = lambda template: _expand(template, environment, source, depth)
        loader.expand_raw = environment.substitute
        return loader.get_single_data()
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - PyYAML's constructors raise anything, as for !!bool x
        raise ConfigurationError(_yaml_problem(error, source, depth)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror or error} "
            "(the URL of a broker would look like amqp://guest:guest@localhost/)"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 at byte {error.start}") from None


def _expand(template: str, environment: Environment, source: str, depth: int) -> Any:
    value = environment.substitute(template)
    # A variable that refers to itself, and text that only looks like a reference, stay unchanged.
    return template if value == template else parse_yaml(value, environment, source, depth + 1)


def _expand_strings(value: Any, environment: Environment, source: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand_strings(item, environment, source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_strings(item, environment, source) for item in value]
    if isinstance(value, str) and "${" in value:
        return _expand(value, environment, source, depth=0)
    return value


@functools.cache
def _yaml_loader() -> Any:
    """A safe loader. Its ``expand`` and ``expand_raw`` handle Nameko's two tags and ``${``."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def expand(loader: Any, node: Any) -> Any:
        return loader.expand(loader.construct_scalar(node))

    def expand_raw(loader: Any, node: Any) -> str:
        return str(loader.expand_raw(loader.construct_scalar(node)))

    Loader.add_implicit_resolver("!env_var", re.compile(r".*\$\{.*\}", re.DOTALL), None)
    Loader.add_constructor("!env_var", expand)
    Loader.add_constructor("!raw_env_var", expand_raw)
    return Loader


def _yaml_problem(error: Exception, source: str, depth: int) -> str:
    """PyYAML's error without its excerpt of the text, which may hold a password."""
    if depth:
        return (
            f"{source}: the value of an environment variable is not valid YAML; "
            'a string is kept as it is by !raw_env_var "${NAME}"'
        )
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    problem = problem or "a value does not fit its tag"
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{source} is not valid YAML{place}: {problem}"


def _reference(text: str, start: int) -> tuple[str | None, str | None, int]:
    """Name, default and end of the reference at ``start``. No name: it is ordinary text."""
    ordinary = None, None, start + 2
    name = _NAME.match(text, start + 2)
    close = _closing_brace(text, start + 1)
    if name is None or close < 0:
        return ordinary
    if name.end() == close:
        return name[0], None, close + 1
    if text[name.end()] == ":":
        return name[0], text[name.end() + 1 : close], close + 1
    return ordinary


def _closing_brace(text: str, opening: int) -> int:
    """Index of the brace that closes the one at ``opening``, or -1. A default may hold braces."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return -1

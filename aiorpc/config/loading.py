"""
Makes settings from a user's config: a URL, a mapping, a file, or ``KEY=VALUE``.

Substitutes environment variables in YAML and TOML like Nameko. Reads files and the environment, and
does no other I/O. Imports PyYAML, and the modules in this folder.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from ..exceptions import ConfigurationError
from .decoding import IN_QUOTES, URL_KEYS, attributes_of, copied, has_variable
from .redaction import MASK
from .settings import Settings, fields

__all__ = ["from_mapping", "load", "parse_define", "resolve"]

_NAME = r"[^{}:\s]+"  # compiled for the first file, because imports have to be quick
# Values may refer to other variables. At this depth, we assume that they refer to each other.
_MAX_EXPANSIONS = 10


def load(
    path: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    *,
    replaced: Collection[str] = (),
) -> Settings:
    """
    Read a YAML file (or TOML, by its suffix) after substituting environment variables.

    Plain scalars and keys may have ``${NAME}`` and ``${NAME:default}``, also nested
    (``${A:${B}}``). We read the result as YAML: ``42`` is an int, and an empty or missing value is
    null. Quoted scalars stay unchanged; ``!env_var "${A}"`` forces substitution, and ``!raw_env_var
    "${A:007}"`` keeps the result a string. TOML quotes all strings, so in TOML we treat each string
    with ``${`` as a plain scalar.

    We do not decode the values of ``replaced`` keys, because ``with_defines`` replaces them.

    Raises:
        ConfigurationError: the error names the file, the key, and the expected type.
    """
    source = os.fspath(path)
    environment = Environment(environ)
    parse = _parse_toml if source.endswith(".toml") else _parse_yaml
    content = parse(_read_text(source), environment, source)
    if content is None:  # an empty file
        content = {}
    if not isinstance(content, Mapping):
        raise ConfigurationError(
            f"{source} must hold a mapping of keys to values, got {type(content).__name__}"
        )
    return _settings(content, source, environment, replaced)


def from_mapping(mapping: Mapping[str, Any], source: str = "config") -> Settings:
    """
    Decode a mapping with YAML's keys. Environment variables are not substituted.

    Raises:
        ConfigurationError: the error names ``source``, the key, and the expected type.
    """
    return _settings(mapping, source, Environment({}))


def resolve(config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None) -> Settings:
    """
    Make settings from a user's config.

    The config is a broker's URL (with ``://``), the path of a file, a mapping, settings, or None
    for the defaults.

    Raises:
        ConfigurationError: the configuration is wrong, or has another type.
    """
    if config is None:
        return Settings()
    if isinstance(config, Settings):
        return config
    if isinstance(config, Mapping):
        return from_mapping(config)
    if isinstance(config, str) and "://" in config:
        return from_mapping({"AMQP_URI": config})
    if isinstance(config, str | os.PathLike):
        return load(config)
    raise ConfigurationError(
        "config must be a URL such as amqp://guest:guest@localhost/, a mapping, Settings or the "
        f"path of a file, got {type(config).__name__}"
    )


def parse_define(text: str, environ: Mapping[str, str] | None = None) -> tuple[str, Any]:
    """
    Read ``KEY=VALUE`` from the command line, with VALUE in YAML. ``KEY`` alone means true.

    Raises:
        ConfigurationError: the key is missing, or VALUE is not valid YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not key:
        raise ConfigurationError("--define needs KEY=VALUE, or KEY for true; the key is missing")
    if not equals:
        return key, True
    environment, source = Environment(environ), f"--define {key}"
    parsed = _parse_yaml(value, environment, source)
    _refuse_incomplete({key: parsed}, environment, source)
    return key, parsed


def _settings(
    mapping: Mapping[str, Any],
    source: str,
    environment: Environment,
    replaced: Collection[str] = (),
) -> Settings:
    given = copied(mapping, source)
    read = {key: value for key, value in given.items() if key not in replaced}
    _refuse_incomplete(read, environment, source)
    tls = "AMQP_SSL" in replaced
    attributes = attributes_of(read, fields(), source, unset=environment.unset, tls=tls)
    return Settings(**attributes, source=source, _given=given)


def _refuse_incomplete(given: Mapping[str, Any], environment: Environment, source: str) -> None:
    """
    Refuse a URL with a missing variable, or with a variable that quotes keep from substitution:
    such a URL would connect to localhost, or as guest.
    """
    for key in URL_KEYS & given.keys():
        value = given[key]
        several = value if isinstance(value, Mapping) else {None: value}
        for name, url in several.items():
            path = key if name is None else f"{key}[{name!r}]"
            if not isinstance(url, str):
                continue
            if missing := environment.incomplete.get(url):
                raise ConfigurationError(
                    f"{source}: {path} is incomplete: not set in the environment, and without a "
                    f"default: {', '.join(sorted(set(missing)))}"
                )
            if has_variable(url):
                raise ConfigurationError(f"{source}: {path} {IN_QUOTES}")


class Environment:
    """Environment variables, and a record of unset variables that a file names."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.variables = os.environ if variables is None else variables
        self.unset: list[str] = []
        #: The missing variables of a text, by the text after substitution.
        self.incomplete: dict[str, list[str]] = {}

    def substitute(self, text: str) -> str:
        """Replace each ``${NAME}`` and ``${NAME:default}`` in *text*, but not in values."""
        known = len(self.unset)
        result = self._substitute(text)
        if missing := self.unset[known:]:
            self.incomplete[result] = missing
        return result

    def _substitute(self, text: str) -> str:
        result, position = "", 0
        while (start := text.find("${", position)) >= 0:
            name, default, end = _reference(text, start)
            value = text[start:end] if name is None else self._value(name, default)
            result += text[position:start] + value
            position = end
        return result + text[position:]

    def _value(self, name: str, default: str | None) -> str:
        if name in self.variables:
            return self.variables[name]
        if default is None:
            self.unset.append(name)
            return ""
        return self._substitute(default)


def _parse_toml(text: str, environment: Environment, source: str) -> Any:
    """Parse TOML. It quotes all strings, so we treat strings with ``${`` as plain scalars."""
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source} is not valid TOML: {error}") from None
    return _expand_strings(content, environment, source)


def _parse_yaml(text: str, environment: Environment, source: str, depth: int = 0) -> Any:
    """Parse YAML with Nameko's substitution. ``depth`` counts the nested expansions."""
    if depth > _MAX_EXPANSIONS:
        raise ConfigurationError(
            f"{source}: environment variables refer to each other at {_MAX_EXPANSIONS} levels,"
            " probably in a circle"
        )
    try:
        loader = _yaml_loader()(text)
        loader.expand = lambda template: _expand(template, environment, source, depth)
        loader.expand_raw = environment.substitute
        return loader.get_single_data()
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - PyYAML may raise anything, as for !!bool x
        raise ConfigurationError(_yaml_problem(error, source, depth)) from None


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        shown = re.sub(r"(?s).*@", f"{MASK}@", path)  # it may be a URL without its scheme
        raise ConfigurationError(
            f"cannot read {shown}: {error.strerror or error} "
            "(the URL of a broker begins with amqp://, such as amqp://guest:guest@localhost/)"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 at byte {error.start}") from None


def _expand(template: str, environment: Environment, source: str, depth: int) -> Any:
    value = environment.substitute(template)
    # A variable that refers to itself stays unchanged, like text that is not a reference.
    return template if value == template else _parse_yaml(value, environment, source, depth + 1)


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
    """Return a safe YAML loader. Its ``expand`` and ``expand_raw`` handle Nameko's tags."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("!env_var", re.compile(r".*\$\{.*\}", re.DOTALL), None)
    loader.add_constructor("!env_var", lambda own, node: own.expand(own.construct_scalar(node)))
    loader.add_constructor(
        "!raw_env_var", lambda own, node: own.expand_raw(own.construct_scalar(node))
    )
    return loader


def _yaml_problem(error: Exception, source: str, depth: int) -> str:
    """Describe PyYAML's error without its excerpt of the file, which may have a password."""
    if depth:
        return (
            f"{source}: the value of an environment variable is not valid YAML. "
            'To keep a string unchanged, write !raw_env_var "${NAME}"'
        )
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{source} is not valid YAML{place}: {problem or 'a value does not fit its tag'}"


def _reference(text: str, start: int) -> tuple[str | None, str | None, int]:
    """Return name, default and end of the reference at ``start``. Name None: not a reference."""
    name = re.compile(_NAME).match(text, start + 2)
    close = _closing_brace(text, start + 1)
    if name is not None and name.end() == close:
        return name[0], None, close + 1
    if name is not None and close >= 0 and text[name.end()] == ":":
        return name[0], text[name.end() + 1 : close], close + 1
    return None, None, start + 2


def _closing_brace(text: str, opening: int) -> int:
    """Return the index of the closing brace for ``opening``, or -1. A default may have braces."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return -1

"""
Makes settings of what users pass as config: a URL, a mapping, a file, ``KEY=VALUE``.

Reads YAML and TOML files and environment variables, and does no other I/O.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from ..exceptions import ConfigurationError
from .files import Environment, parse_yaml, read_file
from .keys import URL_KEYS, attributes_of, copied
from .settings import Settings, fields

__all__ = ["from_mapping", "load", "parse_define", "resolve"]


def load(
    path: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    *,
    replaced: Collection[str] = (),
) -> Settings:
    """
    Read a YAML file (or TOML, by its suffix) after substituting environment variables.

    Plain scalars and keys may hold ``${NAME}`` and ``${NAME:default}``, also nested
    (``${A:${B}}``). The result is read as YAML: ``42`` is an int, and an empty or missing value is
    null. Quoted scalars stay as they are; ``!env_var "${A}"`` forces substitution, and
    ``!raw_env_var "${A:007}"`` keeps the result a string. TOML quotes all strings, so there each
    string with ``${`` is treated as a plain scalar.

    Values of the ``replaced`` keys are not decoded, because ``with_defines`` replaces them.

    Raises:
        ConfigurationError: names the file, the key, and what was expected.
    """
    source = os.fspath(path)
    environment = Environment(environ)
    content = read_file(source, environment)
    if content is None:  # an empty file
        content = {}
    if not isinstance(content, Mapping):
        raise ConfigurationError(
            f"{source} must hold a mapping of keys to values, got {type(content).__name__}"
        )
    return _settings(content, source, environment, replaced)


def from_mapping(mapping: Mapping[str, Any], source: str = "config") -> Settings:
    """
    Decode a mapping with YAML's keys. Its values are used as they are: nothing is substituted.

    Raises:
        ConfigurationError: names ``source``, the key, and what was expected.
    """
    return _settings(mapping, source)


def resolve(config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None) -> Settings:
    """
    Make settings of what a user passes as config.

    That is a broker's URL (it has ``://``), the path of a file, a mapping, settings, or None for
    the defaults.

    Raises:
        ConfigurationError: the configuration is wrong, or is none of these.
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
    Read ``KEY=VALUE`` of a command line, with VALUE as YAML. ``KEY`` alone is true.

    Raises:
        ConfigurationError: there is no key, or VALUE is not valid YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not key:
        raise ConfigurationError("--define needs KEY=VALUE, or KEY for true; the key is missing")
    if not equals:
        return key, True
    environment, source = Environment(environ), f"--define {key}"
    parsed = parse_yaml(value, environment, source)
    _refuse_incomplete({key: parsed}, environment, source)
    return key, parsed


def _settings(
    mapping: Mapping[str, Any],
    source: str,
    environment: Environment | None = None,
    replaced: Collection[str] = (),
) -> Settings:
    given = copied(mapping, source)
    read = {key: value for key, value in given.items() if key not in replaced}
    if environment is not None:
        _refuse_incomplete(read, environment, source)
    unset = environment.unset if environment else ()
    attributes = attributes_of(read, fields(), source, unset=unset, tls="AMQP_SSL" in replaced)
    return Settings(**attributes, source=source, _given=given)


def _refuse_incomplete(given: Mapping[str, Any], environment: Environment, source: str) -> None:
    """Refuse a URL in which a variable is missing: it would lead to localhost, or to guest."""
    for key in URL_KEYS & given.keys():
        value = given[key]
        several = value if isinstance(value, Mapping) else {None: value}
        for name, url in several.items():
            if isinstance(url, str) and (missing := environment.incomplete.get(url)):
                path = key if name is None else f"{key}[{name!r}]"
                raise ConfigurationError(
                    f"{source}: {path} is incomplete: not set in the environment, and without a "
                    f"default: {', '.join(sorted(set(missing)))}"
                )

"""
Parses the command line with argparse, and has the options that several commands share.

Imports argparse and ``config``. Does no I/O except to read the configuration file.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from ..config import Settings, load, parse_define, redact_url
from ..config.loading import from_mapping
from ..exceptions import ConfigurationError, likely
from .loading import look_in_current_directory
from .output import ExitCode, print_error, print_note

__all__ = [
    "Parser",
    "add_settings",
    "add_timeout",
    "at_least_one",
    "number",
    "refuse_url",
    "settings_for_server",
    "settings_of",
]


class Parser(argparse.ArgumentParser):
    """
    The parser of one command. Options may stand before, between and after the arguments.

    For a wrong command line, the parser prints one line to stderr and exits with code 2.
    """

    def __init__(self, prog: str, arguments: str, description: str, epilog: str) -> None:
        #: Long names of all options, for completion.
        self.options: list[str] = []
        super().__init__(
            prog,
            f"{prog} [options] {arguments}".rstrip(),
            description,
            epilog,
            # Without a width, argparse imports shutil, which imports bz2 and lzma.
            formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=80),
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("--help", "-h", action="help", help="Show this message and exit.")
        self.option("--debug", "Show the traceback of an error.")

    def option(self, form: str, text: str, **options: Any) -> None:
        """Add an option in the form ``--config -c FILE``, or a flag such as ``--json``."""
        *names, last = form.split()
        if last.startswith("-"):
            self.add_argument(*names, last, help=text, action="store_true")
        else:
            self.add_argument(*names, metavar=last, help=text, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse *words*, or print the mistake and exit."""
        arguments, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            option = unknown[0].partition("=")[0]
            what = "option" if option.startswith("-") else "argument"
            self.error(f"there is no {what} {option}{likely(option, self.options)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        print_error(f"{message}. Try '{self.prog} --help'.")
        raise SystemExit(ExitCode.WRONG)


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return a function that reads a finite number between *least* and *most*."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number")
        if not least <= value <= most:
            upper = f" and at most {most:g}" if math.isfinite(most) else ""
            raise argparse.ArgumentTypeError(f"{text} is not at least {least:g}{upper}")
        return value

    return read


def at_least_one(text: str) -> int:
    """Read an int >= 1."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not an int >= 1")
    return value


def add_settings(parser: Parser) -> None:
    """Add ``--config``, ``--define`` and ``--broker``, which :func:`settings_of` reads."""
    config = "Configuration in YAML, as for Nameko (or TOML, by its suffix)."
    define = "Set a key of the configuration; VALUE is read as YAML. Repeatable."
    parser.option("--config -c FILE", config)
    parser.option("--define -d KEY=VALUE", define, action="append", default=[])
    parser.option("--broker -b URL", "AMQP_URI: amqp://user:password@host/vhost, or memory://")


def add_timeout(parser: Parser) -> None:
    """Add ``--timeout``: the seconds that a call waits for its answer."""
    text = "Seconds that a call waits for its answer. (default: RPC_TIMEOUT, or 30)"
    parser.option("--timeout -t SECONDS", text, type=number(0.001))


def settings_of(arguments: argparse.Namespace) -> Settings:
    """
    Read the configuration file, or ``AMQP_URI`` of the environment, and apply the options.

    This adds the current directory to Python's path, because the configuration may name classes
    beside the services, as in ``LOGGING``.

    Raises:
        ConfigurationError: the error names the file or option, the key, and the expected value.
    """
    config = arguments.config
    refuse_url(config)
    broker = {} if arguments.broker is None else {"AMQP_URI": arguments.broker}
    defines = dict(map(parse_define, arguments.define))
    replaced = defines | broker
    settings = _of_environment(replaced) if config is None else load(config, replaced=replaced)
    look_in_current_directory()
    # --broker replaces AMQP_URI, so that value may be invalid.
    defines = {key: value for key, value in defines.items() if key not in broker}
    return settings.with_defines(defines).with_defines(broker, "--broker")


def print_notes(settings: Settings) -> None:
    """Print the configured keys that have no effect, which ``aiorpc run`` logs."""
    for note in settings.notes:
        print_note(note)


def _of_environment(replaced: Collection[str]) -> Settings:
    uri = os.environ.get("AMQP_URI")
    if uri is None or "AMQP_URI" in replaced:
        return Settings()
    return from_mapping({"AMQP_URI": uri}, "the environment")


def refuse_url(config: str | None) -> None:
    """Raise ``ConfigurationError`` if *config* is a URL. The error hides the password."""
    url = re.match(r"(?P<scheme>[A-Za-z][\w+.-]+):/+", config or "")
    if url is not None:
        shown = redact_url(f"{url['scheme']}://{url.string[url.end() :]}")
        raise ConfigurationError(f"--config {shown} is a URL: use --broker")


def settings_for_server(
    arguments: argparse.Namespace, command: str, *, level: int = logging.CRITICAL
) -> Settings:
    """
    Read the settings of a *command* that needs a server, and show aiorpc's log from *level* on.

    By default, it is silent: the command's error already reports a lost broker, and log lines would
    hide the result.

    Raises:
        ConfigurationError: see :func:`settings_of`; or the URL is ``memory://``, where *command*
            cannot find a service.
    """
    settings = settings_of(arguments)
    if any(url.scheme == "memory" for url in settings.broker_urls):
        raise ConfigurationError(
            f"memory:// only reaches its own process, so `aiorpc {command}` finds no "
            "service there: name a RabbitMQ server with --broker or --config"
        )
    print_notes(settings)
    logging.getLogger("aiorpc").setLevel(level)
    return settings

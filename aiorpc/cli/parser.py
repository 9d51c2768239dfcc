"""
The grammar of a command, on argparse, and the options that several commands share.

Imports argparse and ``config``. No I/O but reading the configuration file that an option names.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..config import Settings, load, parse_define, redact_url
from ..config.loading import from_mapping
from ..exceptions import ConfigurationError, likely
from .loading import look_in_current_directory
from .output import ExitCode, print_error

__all__ = [
    "Parser",
    "add_settings",
    "add_timeout",
    "number",
    "refuse_url",
    "settings_for_server",
    "settings_of",
]


class Parser(argparse.ArgumentParser):
    """
    The grammar of one command. Options may stand before, between and after its arguments.

    A mistake prints one line on stderr and exits with code 2.
    """

    def __init__(self, prog: str, arguments: str, description: str, epilog: str) -> None:
        #: Long names of all options, for completion.
        self.options: list[str] = []
        super().__init__(
            prog,
            f"{prog} [options] {arguments}".rstrip(),
            description,
            epilog,
            # Without a width argparse imports shutil, and with it bz2 and lzma.
            formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=80),
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("--help", "-h", action="help", help="Show this message and exit.")
        self.option("--debug", "Show the traceback of an error.")

    def option(self, form: str, text: str, **options: Any) -> None:
        """Add an option in the form of its help, as ``--config -c FILE``; a flag has no value."""
        *names, last = form.split()
        if last.startswith("-"):
            self.add_argument(*names, last, help=text, action="store_true")
        else:
            self.add_argument(*names, metavar=last, help=text, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse *words*, or print what is wrong with them and exit."""
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
    """Return a function that reads a finite number from *least* to *most*."""

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


def add_settings(parser: Parser) -> None:
    """Add ``--config``, ``--define`` and ``--broker``, which :func:`settings_of` reads."""
    config = "Configuration in YAML, as for Nameko (or TOML, by its suffix)."
    define = "Set a key of the configuration; VALUE is read as YAML. Repeatable."
    parser.option("--config -c FILE", config, type=Path)
    parser.option("--define -d KEY=VALUE", define, action="append", default=[])
    parser.option("--broker -b URL", "AMQP_URI: amqp://user:password@host/vhost, or memory://")


def add_timeout(parser: Parser) -> None:
    """Add ``--timeout``: the longest time that a call waits for its answer."""
    text = "Seconds that a call waits for its answer. (default: RPC_TIMEOUT, or 30)"
    parser.option("--timeout -t SECONDS", text, type=number(0.001))


def settings_of(arguments: argparse.Namespace) -> Settings:
    """
    Read the configuration file, or else ``AMQP_URI`` of the environment; apply the options.

    Classes that the configuration names, as in ``LOGGING``, are found beside the services: from
    here on the current directory is on Python's path.

    Raises:
        ConfigurationError: names the file or the option, the key, and what was expected.
    """
    config = arguments.config
    refuse_url(config)
    broker = {} if arguments.broker is None else {"AMQP_URI": arguments.broker}
    defines = dict(map(parse_define, arguments.define))
    replaced = defines | broker
    settings = _of_environment(replaced) if config is None else load(config, replaced=replaced)
    look_in_current_directory()
    # What --broker overrides may be wrong.
    defines = {key: value for key, value in defines.items() if key not in broker}
    return settings.with_defines(defines).with_defines(broker, "--broker")


def _of_environment(replaced: Collection[str]) -> Settings:
    uri = os.environ.get("AMQP_URI")
    if uri is None or "AMQP_URI" in replaced:
        return Settings()
    return from_mapping({"AMQP_URI": uri}, "the environment")


def refuse_url(config: Path | None) -> None:
    """Raise ``ConfigurationError``, without its password, if *config* is a broker's URL."""
    url = re.match(r"(?P<scheme>[A-Za-z][\w+.-]+):/+", str(config))  # a Path turns // into /
    if url is not None:
        shown = redact_url(f"{url['scheme']}://{str(config)[url.end() :]}")
        raise ConfigurationError(f"--config {shown}: that is a URL: use --broker")


def settings_for_server(arguments: argparse.Namespace, command: str) -> Settings:
    """
    Read the settings of a *command* that needs a server, and silence aiorpc's log.

    The error says that the broker is not there; other lines would only hide the result.

    Raises:
        ConfigurationError: as :func:`settings_of`, and for ``memory://``, where *command* cannot
            find any service.
    """
    settings = settings_of(arguments)
    if any(url.scheme == "memory" for url in settings.broker_urls):
        raise ConfigurationError(
            f"memory:// does not reach beyond its own process, so `aiorpc {command}` finds no "
            "service there: name a RabbitMQ server with --broker or --config"
        )
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)
    return settings

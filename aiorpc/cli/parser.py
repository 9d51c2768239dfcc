"""
The grammar of a command, on argparse, and the options that several commands share.

Imports argparse and ``config``. No I/O but reading the configuration file that an option names.
"""

from __future__ import annotations

import argparse
import functools
import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..config import Settings, load, parse_define, redact_url
from ..exceptions import ConfigurationError
from .exit_codes import ExitCode
from .output import print_error

__all__ = [
    "Parser",
    "add_settings",
    "add_timeout",
    "likely",
    "number",
    "refuse_url",
    "require_server",
    "settings_of",
]


class Parser(argparse.ArgumentParser):
    """
    The grammar of one command. Options may stand before, between and after its arguments.

    A mistake prints one line on stderr and exits with code 2.
    """

    def __init__(self, prog: str, usage: str | None = None) -> None:
        #: Long names of all options, for completion.
        self.options: list[str] = []
        super().__init__(
            prog,
            usage,
            # Without a width argparse imports shutil, and with it bz2 and lzma.
            formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=80),
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("--help", "-h", action="help", help="Show this message and exit.")

    def describe(self, arguments: str, description: str, examples: str) -> None:
        """Set the help: *arguments* are those without a name, the texts are shown as they are."""
        self.usage = f"{self.prog} [options] {arguments}".rstrip()
        self.description = description
        self.epilog = f"Examples:\n{examples}"

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


def likely(word: str, known: Collection[str]) -> str:
    """`` (did you mean ...?)`` if *word* resembles one of the *known* words, else nothing."""
    from difflib import get_close_matches

    matches = get_close_matches(word, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


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
    parser.add_argument(
        "--config",
        "-c",
        metavar="FILE",
        type=Path,
        help="Configuration in YAML, as for Nameko (or TOML, by its suffix).",
    )
    parser.add_argument(
        "--define",
        "-d",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="Set a key of the configuration; VALUE is read as YAML. Repeatable.",
    )
    parser.add_argument(
        "--broker",
        "-b",
        metavar="URL",
        help="AMQP_URI: amqp://user:password@host/vhost, or memory://",
    )


def add_timeout(parser: Parser) -> None:
    """Add ``--timeout``: the longest time that a call waits for its answer."""
    parser.add_argument(
        "--timeout",
        "-t",
        metavar="SECONDS",
        type=number(0.001),
        help="Seconds that a call waits for its answer. (default: RPC_TIMEOUT, or 30)",
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """
    Read the configuration file, or take the defaults, and apply the options.

    Raises:
        ConfigurationError: names the file or the option, the key, and what was expected.
    """
    config, broker = arguments.config, arguments.broker
    refuse_url(config)
    defines = dict(map(parse_define, arguments.define))
    replaced = {*defines, *(("AMQP_URI",) if broker is not None else ())}
    settings = Settings() if config is None else load(config, replaced=replaced)
    if defines:
        if broker is not None:  # --broker overrides it, so it may be wrong
            defines.pop("AMQP_URI", None)
        settings = settings.with_defines(defines)
    if broker is not None:
        settings = settings.with_defines({"AMQP_URI": broker}, "--broker")
    return settings


def refuse_url(config: Path | None) -> None:
    """Raise ``ConfigurationError``, without its password, if *config* is a broker's URL."""
    url = re.match(r"(?P<scheme>[A-Za-z][\w+.-]+):/+", str(config))  # a Path turns // into /
    if url is not None:
        shown = redact_url(f"{url['scheme']}://{str(config)[url.end() :]}")
        raise ConfigurationError(f"--config {shown}: that is a URL: use --broker")


def require_server(settings: Settings, command: str) -> None:
    """Raise ``ConfigurationError`` on ``memory://``, where *command* cannot find any service."""
    if any(url.scheme == "memory" for url in settings.broker_urls):
        raise ConfigurationError(
            f"memory:// does not reach beyond its own process, so `aiorpc {command}` finds no "
            "service there: name a RabbitMQ server with --broker or --config"
        )

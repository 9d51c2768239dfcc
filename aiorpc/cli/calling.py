"""What a command line says of a call: whom to call, with what, and in which words it failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
import typer

from ..exceptions import AioRpcError, ConfigurationError, MethodNotFound, RemoteError
from .options import finite

__all__ = [
    "Args",
    "Context",
    "Kwargs",
    "Target",
    "Timeout",
    "arguments_of",
    "context_of",
    "in_words",
    "target_of",
]

Target: TypeAlias = Annotated[
    str, typer.Argument(metavar="SERVICE.METHOD", help="Whom to call.", show_default=False)
]
Args: TypeAlias = Annotated[
    str, typer.Argument(metavar="ARGS", help="Positional arguments, a JSON array.")
]
Kwargs: TypeAlias = Annotated[
    str, typer.Argument(metavar="KWARGS", help="Keyword arguments, a JSON object.")
]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        "-t",
        metavar="SECONDS",
        min=0.001,
        callback=finite,
        show_default="RPC_TIMEOUT, or 30",
        help="Wait for the answer so long.",
    ),
]
Context: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="KEY=VALUE",
        show_default=False,
        help="Context data that travels with the call; VALUE is JSON, or text. Repeatable.",
    ),
]


def target_of(text: str) -> tuple[str, str]:
    """The service and the method. Raises ``ConfigurationError``."""
    service, dot, method = text.rpartition(".")
    if not (service and dot and method):
        raise ConfigurationError(
            f"{text!r} names no method: write SERVICE.METHOD, such as service_x.remote_method"
        )
    return service, method


def arguments_of(args: str, kwargs: str) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments from their JSON. Raises ``ConfigurationError``."""
    positional = _json(args)
    if isinstance(positional, dict) and kwargs == "{}":
        return [], positional  # only keyword arguments, and no '[]' before them
    if not isinstance(positional, list):
        raise ConfigurationError(
            f"""ARGS must be a JSON array, in quotes for the shell: '["hello", 1]'; got {args}"""
        )
    named = _json(kwargs)
    if not isinstance(named, dict):
        raise ConfigurationError(
            f"""KWARGS must be a JSON object, in quotes for the shell: '{{"n": 1}}'; got {kwargs}"""
        )
    return positional, named


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None


def context_of(items: Sequence[str] | None) -> dict[str, Any]:
    """Context data from what ``--context`` said. Raises ``ConfigurationError``."""
    return dict(map(_context_item, items or ()))


def _context_item(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigurationError(f"--context needs KEY=VALUE, such as language=en; got {text}")
    try:
        key.encode()
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value
    except UnicodeEncodeError:
        raise ConfigurationError(f"--context {text!r} is not UTF-8") from None


def in_words(service: str, method: str, error: AioRpcError) -> str:
    """Why a call failed, led by what was called."""
    if isinstance(error, RemoteError):
        return f"{service}.{method} raised {error.exc_type}: {error.value}"
    if isinstance(error, MethodNotFound):
        return f"{service} has no method {method} that is marked @rpc"
    called = f"{service}.{method}"
    return str(error) if str(error).startswith(called) else f"{called}: {error}"

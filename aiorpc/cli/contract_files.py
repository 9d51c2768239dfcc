"""Reads and writes the files of ``aiorpc contract`` and ``aiorpc stubs``."""

from __future__ import annotations

import sys
from pathlib import Path

from ..contracts.model import Contract
from ..contracts.reading import read
from ..exceptions import ConfigurationError
from .output import print_note

__all__ = ["read_contract", "write"]


def read_contract(name: str) -> Contract:
    """
    Return the contract in the file *name*; ``-`` is stdin.

    Raises:
        ConfigurationError: there is no such file, or it is no contract.
    """
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        raise ConfigurationError(
            f"the contract {name} cannot be read: {exc.strerror}. Make it with "
            "`aiorpc contract MODULE -o FILE`"
        ) from None
    return read(text, name)


def write(text: str, name: str | None) -> None:
    """
    Write *text* to the file *name*, unless it has this text already; ``None`` is stdout.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    if name is None:
        sys.stdout.write(text)
        return
    path, content = Path(name), text.encode(errors="replace")  # JSON may have lone surrogates
    try:
        if path.exists() and path.read_bytes() == content:
            print_note(f"{name} is up to date")
            return
        path.write_bytes(content)
    except OSError as exc:
        raise ConfigurationError(f"{name} cannot be written: {exc.strerror}") from None
    print_note(f"wrote {name}")

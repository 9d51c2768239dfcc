"""Holds services to the contract in a file, for the fixture ``contract``. Reads the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..contracts.describing import contract_of
from ..contracts.differences import breaks_of
from ..contracts.reading import read
from ..exceptions import ConfigurationError

__all__ = ["difference_from"]


def difference_from(
    root: Path, services: Sequence[type], file: str | os.PathLike[str]
) -> str | None:
    """
    Return how *services* differ from the contract in *file*, and the command that updates the file;
    ``None`` if they do not.

    Args:
        root: the directory of a *file* without a directory of its own.
    """
    now = contract_of(services)
    names = " ".join(f"{each.__module__}:{each.__qualname__}" for each in services)
    update = f"aiorpc contract {names} -o {os.fspath(file)}"
    path = root / file
    try:
        committed = read(path.read_bytes(), os.fspath(file))
    except FileNotFoundError:
        return f"there is no contract {path}. Write it, and commit it:\n\n    {update}"
    except ConfigurationError as error:
        return f"{error}:\n\n    {update}"
    if committed == now:
        return None
    breaks = breaks_of(committed, now)
    lines = [f"the code differs from the contract {os.fspath(file)}, and breaks nothing of it."]
    if breaks:
        lines = [f"the code breaks the contract {os.fspath(file)}:"]
        lines += ["", *(f"    {each}" for each in breaks), ""]
        lines += ["If nobody relies on that any more, write the contract again, and commit it:"]
    else:
        lines += ["Write it again, and commit it:"]
    return "\n".join([*lines, "", f"    {update}"])

"""
The command line: ``aiorpc run``, ``call``, ``shell``, ``show-config``, ``ls``, ``bench``,
``new``.

One command per file. Imports typer, and rich where something is drawn; ``import aiorpc`` imports
nothing of this.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run ``aiorpc`` with the arguments of this process, and exit."""
    from typer.main import get_command

    from .app import app

    raise SystemExit(get_command(app).main())

"""
The command line: ``aiorpc run``, ``call``, ``shell``, ``show-config``, ``ls``, ``bench``,
``new``.

One command per file. Imports typer, but for a plain ``aiorpc run``, and rich where something is
drawn; ``import aiorpc`` imports nothing of this.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from .run_line import read, run_plainly

__all__ = ["main"]


def main() -> NoReturn:
    """Run ``aiorpc`` with the arguments of this process, and exit."""
    line = read(sys.argv[1:])
    if line is not None:
        raise SystemExit(run_plainly(line))
    from typer.main import get_command

    from .app import app

    raise SystemExit(get_command(app).main())

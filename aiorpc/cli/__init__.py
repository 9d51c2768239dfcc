"""
The command line: ``aiorpc run``, ``call``, ``shell``, ``ls``, ``bench``, ``show-config``, ``new``.

Nothing in aiorpc imports this package, which imports rich only to draw on a terminal.
"""

from __future__ import annotations

import gc
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run ``aiorpc`` with the arguments of this process, and exit."""
    gc.disable()  # imports make objects that stay; app.run() enables it (ADR 6)
    from .app import main

    main()

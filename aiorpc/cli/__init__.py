"""
The command line, ``aiorpc``. ``app.py`` has the list of its commands.

Nothing in aiorpc imports this package, which imports rich only to draw on a terminal.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

__all__ = ["main"]

#: ``ExitCode.INTERRUPTED``, which is not imported then.
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run ``aiorpc`` with the arguments of this process, and exit."""
    gc.disable()  # imports make objects that stay; app.run() enables it (ADR 6)
    try:
        from .app import main

        main()
    except KeyboardInterrupt:  # while modules are imported; app.run() has the later ones
        print(file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None

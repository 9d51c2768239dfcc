"""
The command line: ``aiorpc run``, ``call``, ``shell``, ``ls``, ``bench``, ``show-config``, ``new``.

Nothing in aiorpc imports this package, which imports rich only to draw on a terminal.
"""

from .app import main

__all__ = ["main"]

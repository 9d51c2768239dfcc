"""
The command line: ``aiorpc run``, ``call``, ``shell``, ``ls``, ``bench``, ``show-config``, ``new``.

Nothing in aiorpc imports this package. It imports rich only where it draws something.
"""

from .app import main

__all__ = ["main"]

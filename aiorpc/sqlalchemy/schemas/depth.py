"""
Lets marshmallow recurse deeper while it loads or dumps.

Awaits nothing. A dump may await the database inside ``deep``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["deep"]

#: Frames of Python. marshmallow needs about 12 for each nested object, and a message may have 200
#: levels. Calls between functions in Python use no stack of C.
LIMIT = 4000

_before = 0
_users = 0


@contextmanager
def deep() -> Iterator[None]:
    """
    Raise Python's recursion limit for the block, because the default (1000 frames) ends a load at
    about 70 nested objects. The last of overlapping blocks restores the limit.
    """
    global _before, _users
    if not _users:
        _before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(LIMIT, _before))
    _users += 1
    try:
        yield
    finally:
        _users -= 1
        if not _users:
            sys.setrecursionlimit(_before)

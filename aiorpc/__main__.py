"""``python -m aiorpc``: the same as the command ``aiorpc``."""

from __future__ import annotations

from .cli import main

main()

"""Paths of the files that tests read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CERTIFICATES", "DATA", "REPOSITORY"]

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests" / "data"
CERTIFICATES = DATA / "tls"

"""
Finds a Chromium for the tests of pages. Imports nothing of aiorpc.

``make servers`` installs none, so a machine without one skips these tests, in CI too.
"""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Return the path of a Chromium, or skip the test. ``AIORPC_TEST_CHROMIUM`` names one."""
    if (named := os.environ.get("AIORPC_TEST_CHROMIUM")) is not None:
        return named
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(
            "there is no Chromium: `apt-get install chromium`, or AIORPC_TEST_CHROMIUM names one"
        )
    return found

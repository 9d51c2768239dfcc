"""Services for the tests of ``aiorpc.testing``."""

from __future__ import annotations

# A project of its own, run as such by test_plugin.py and by tests/support/wheel.py.
collect_ignore = ["project"]

"""Services for the tests of ``aiorpc.testing``."""

from __future__ import annotations

# A separate project, whose tests test_plugin.py and tests/support/wheel.py run.
collect_ignore = ["project"]

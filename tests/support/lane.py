"""
The lane that a test takes where it does not choose one: the fast one, unless the environment says
``AIORPC_TEST_FAST_LANE=off``. Nothing else reads that variable; what tests hand to processes that
they start is a configuration, and has it from here.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["FAST_LANE", "on_broker"]

_CHOICES = {"": True, "on": True, "off": False}
_CHOSEN = os.environ.get("AIORPC_TEST_FAST_LANE", "")
if _CHOSEN not in _CHOICES:
    raise RuntimeError(f"AIORPC_TEST_FAST_LANE is 'on' or 'off', not {_CHOSEN!r}")

FAST_LANE = _CHOICES[_CHOSEN]


def on_broker(url: str, **more: Any) -> dict[str, Any]:
    """A configuration for the broker at *url*, with the lane that was chosen for this run."""
    return {"AMQP_URI": url, "AMQP_FAST_LANE": FAST_LANE, **more}

"""Runs the scenarios with anyio's plugin."""

import pytest
from scenarios import *  # noqa: F403 - each module runs the same tests

pytestmark = pytest.mark.anyio

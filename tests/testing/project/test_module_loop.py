"""Strict mode, and one loop for the whole module."""

import pytest
from scenarios import *  # noqa: F403 - each module runs the same tests

pytestmark = pytest.mark.asyncio(loop_scope="module")

"""Runs the scenarios with pytest-asyncio in strict mode, with marks."""

import pytest
from scenarios import *  # noqa: F403 - each module runs the same tests

pytestmark = pytest.mark.asyncio

"""Runs the scenarios with pytest-asyncio in auto mode, without marks."""

from scenarios import *  # noqa: F403 - each module runs the same tests

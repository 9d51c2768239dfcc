"""pytest-asyncio in auto mode needs no marks."""

from scenarios import *  # noqa: F403 - each module runs the same tests

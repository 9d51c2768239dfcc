"""pytest-asyncio in strict mode wants them."""

import pytest
from scenarios import *  # noqa: F403 - each module runs the same tests

pytestmark = pytest.mark.asyncio

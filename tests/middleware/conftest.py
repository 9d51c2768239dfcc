"""The configuration of a module's fixture ``installed``, which also has what its middleware saw."""

from __future__ import annotations

import pytest

from aiorpc.config import Settings


@pytest.fixture
def settings(installed: tuple[Settings, object]) -> Settings:
    return installed[0]

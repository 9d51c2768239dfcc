"""Fixtures: read YAML text as a configuration file, or get the error that it leads to."""

from __future__ import annotations

import pytest

from aiorpc.config import load
from aiorpc.exceptions import ConfigurationError


@pytest.fixture
def read(tmp_path):
    """Loads YAML from a file called config.yaml, with these environment variables only."""

    def load_text(text, name="config.yaml", **environ):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load(path, environ)

    return load_text


@pytest.fixture
def complaint(read):
    """The text of the error that a YAML text leads to."""

    def complaint_about(text, **environ):
        with pytest.raises(ConfigurationError) as caught:
            read(text, **environ)
        return str(caught.value)

    return complaint_about

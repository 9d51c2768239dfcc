"""Importing ``aiorpc.sqlalchemy`` without what its extras install."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "missing", ["sqlalchemy", "greenlet", "marshmallow", "marshmallow_sqlalchemy"]
)
def test_the_error_for_a_missing_package_names_the_extras(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import aiorpc.sqlalchemy.retry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: aiorpc.sqlalchemy needs {missing}, which is not installed: "
        'pip install "aiorpc-amqp[postgresql]", or [mysql] or [sqlite], or [sqlalchemy] for '
        "another driver"
    )

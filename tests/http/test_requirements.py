"""Importing ``aiorpc.http`` without what its extra installs."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_the_error_for_a_missing_package_names_the_extra(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from aiorpc.http import http"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: aiorpc.http needs {missing}, which is not installed: "
        'pip install "aiorpc-amqp[http]"'
    )

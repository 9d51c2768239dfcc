"""The copied names of OpenTelemetry's conventions exist in its registry, and are not outdated."""

from __future__ import annotations

import pytest
from opentelemetry.semconv.schemas import Schemas

from aiorpc.middleware import conventions
from tests.support.otel_registry import registry

NAMES = {
    name: value
    for name, value in vars(conventions).items()
    if name.isupper() and isinstance(value, str) and "." in value and ":" not in value
}
METRICS = {name for name in NAMES if name.endswith("_DURATION") or name in {"SENT", "CONSUMED"}}


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_in_the_registry_and_not_deprecated(name: str) -> None:
    known = registry("metrics" if name in METRICS else "attributes")
    assert NAMES[name] in known
    assert not known[NAMES[name]].startswith("Deprecated")


def test_the_registry_knows_deprecated_names() -> None:
    assert registry("attributes")["rpc.service"].startswith("Deprecated")
    assert registry("metrics")["rpc.server.duration"].startswith("Deprecated")


def test_the_schema_is_the_registrys() -> None:
    assert Schemas.V1_44_0.value == conventions.SCHEMA

"""The private broker of the chaos suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Rabbit


@pytest.fixture(scope="session")
def node() -> Iterator[Rabbit]:
    if Rabbit.program() is None:
        pytest.skip("the chaos suite needs an installed RabbitMQ, of which it starts its own node")
    with Rabbit.fresh() as node:
        yield node

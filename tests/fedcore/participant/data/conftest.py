"""A real PostgreSQL server for the tests of its connector."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fedcore.participant.data.postgres_server import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Skips where PostgreSQL is not installed."""
    with running() as server:
        yield server

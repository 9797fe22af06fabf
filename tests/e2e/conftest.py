"""A whole installation: real services on real servers, looked at from outside only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.installation import SHARDS, Installation

from everstep.settings import Settings

SHOP = "tests.e2e.shop:app"


@pytest.fixture
async def installation(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Installation]:
    """Migrated, with a ledger for activities to write to; nothing runs yet."""
    async with opened(tmp_path, postgres_dsn, kafka_bootstrap, topic_prefix) as installation:
        yield installation


def opened(directory: Path, dsn: str, bootstrap: str, prefix: str) -> Installation:
    settings = Settings(kafka_bootstrap=bootstrap, postgres_dsn=dsn, topic_prefix=prefix, shards=SHARDS)
    return Installation(settings, directory)

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engine import kit


@pytest.fixture(autouse=True)
def _no_run_is_left() -> Iterator[None]:
    """Close what the test's cases left open, so that nothing of theirs runs whenever the collector finds it."""
    yield
    while kit.made:
        kit.made.pop().evict()

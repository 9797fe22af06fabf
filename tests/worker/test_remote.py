"""Activities whose code is elsewhere are other workers' business."""

from __future__ import annotations

import pytest
from tests.worker.kit import Orchestrator, running

from everstep import App
from everstep_worker.__main__ import queues_of

app = App("shop", queue="shop")


@app.activity
async def here() -> str:
    return "here"


@app.remote(queue="warehouse")
async def there() -> None: ...


def test_their_queues_are_not_served_unless_that_is_asked_for() -> None:
    assert queues_of(app, [], 10) == {"shop": 10}
    assert queues_of(app, ["warehouse"], 10) == {"warehouse": 10}


def test_an_app_with_no_others_has_nothing_to_do() -> None:
    only = App("only")

    @only.remote(queue="warehouse")
    async def elsewhere() -> None: ...

    with pytest.raises(ValueError, match="no activity of its own"):
        queues_of(only, [], 10)


@pytest.mark.integration
async def test_they_are_not_run(orchestrator: Orchestrator) -> None:
    async with running(app, orchestrator.settings):
        error = await orchestrator.failure_of("there")
        assert (error.type, error.retryable) == ("ActivityNotRegistered", True)
        assert "it has: here" in error.message
        assert await orchestrator.value_of("here") == "here"

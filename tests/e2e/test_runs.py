"""What a user does, from the outside, on a healthy installation."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from tests.e2e import shop
from tests.e2e.installation import Installation

from everstep import RunCancelled, RunFailed, RunTerminated

pytestmark = [pytest.mark.integration, pytest.mark.process]

SOON = timedelta(seconds=30)


async def test_what_authors_write_works_end_to_end(installation: Installation) -> None:
    await installation.start(orchestrators=2, workers=2)
    client = installation.client

    async def result(workflow: str, *args: object) -> object:
        run = await client.start(workflow, *args, id=f"{workflow}-{args}")
        return await run.result(timeout=SOON)

    answers = await asyncio.gather(
        result("retried", 2),
        result("declined"),
        result("threaded", 20),
        result("fan", 300),
        result("times_out"),
        result("naps", 0.7),
        result("cut_short"),
    )
    assert answers[:5] == [3, "declined: no money", 380, 44850, "nobody came"]
    assert isinstance(answers[5], float)
    assert 0.7 <= answers[5] < 30
    assert answers[6] == "cut short"
    with pytest.raises(RunFailed, match="attempt 3"):
        await result("retried", 3)
    with pytest.raises(RunFailed, match="never again"):
        await result("gives_up_at_once")
    await installation.settled()
    await installation.check(shop.app)


async def test_a_stranger_starts_signals_and_cancels_over_kafka(installation: Installation) -> None:
    """Any partition will do: what lies elsewhere is forwarded, and a signal may overtake its start."""
    await installation.start(orchestrators=2)
    for i in range(20):
        signal = {"kind": "signal", "workflow_id": f"w-{i}", "name": "go", "value": {"i": i}}
        start = {"kind": "start", "workflow": "wait_for_go", "workflow_id": f"w-{i}", "args": [i]}
        for body in (signal, start) if i % 2 else (start, signal):
            await installation.submit(body, partition=i % 4)
    await installation.submit({"kind": "start", "workflow": "wait_for_go", "workflow_id": "cancelled", "args": [99]})

    async def waiting() -> bool:
        row = await installation.row("cancelled")
        return row is not None and row["custom_status"] == "waiting"

    await installation.until(waiting, "the run to wait")
    await installation.submit({"kind": "cancel", "workflow_id": "cancelled", "reason": "the customer asked"})

    async def ended() -> bool:
        return await installation.count("completed") == 20 and await installation.count("cancelled") == 1

    await installation.until(ended, "all runs to end")
    booked = {row["what"] for row in await installation.sql.fetch("SELECT what FROM public.ledger")}
    kept = {f"w-{i}/{part}" for i in range(20) for part in ("before", "after")}
    assert booked == kept | {"cancelled/before", "cancelled/refund"}
    await installation.settled()
    await installation.check(shop.app)


async def test_lifecycle_tells_every_business_fact_once_and_in_order(installation: Installation) -> None:
    await installation.start()
    run = await installation.client.start(shop.wait_for_go, 1, id="told")
    await run.signal(shop.go, {"now": True})
    assert await run.result(timeout=SOON) == {"now": True}

    def find(records: list[object]) -> list[tuple[str, dict[str, object]]] | None:
        facts = [(dict(r.headers)["ce_type"].decode(), json.loads(r.value)) for r in records]  # type: ignore[attr-defined]
        return facts if facts and facts[-1][0] == "everstep.run.completed" else None

    facts = await installation.records(installation.topics.lifecycle, find)
    assert [kind for kind, _ in facts] == [
        "everstep.run.started",
        "everstep.run.status_changed",
        "everstep.run.completed",
    ]
    assert facts[-1][1]["result"] == {"now": True}
    assert [fact["seq"] for _, fact in facts] == sorted(fact["seq"] for _, fact in facts)  # type: ignore[type-var]


async def test_cancel_and_terminate(installation: Installation) -> None:
    await installation.start()
    cancelled = await installation.client.start(shop.wait_for_go, 1, id="cancelled")
    terminated = await installation.client.start(shop.wait_for_go, 2, id="terminated")
    await installation.until(lambda: _both_wait(installation), "both to wait")
    await cancelled.cancel("changed my mind")
    await terminated.terminate("enough")
    with pytest.raises(RunCancelled):
        await cancelled.result(timeout=SOON)
    with pytest.raises(RunTerminated):
        await terminated.result(timeout=SOON)
    booked = {row["what"] for row in await installation.sql.fetch("SELECT what FROM public.ledger")}
    assert booked == {"cancelled/before", "cancelled/refund", "terminated/before"}


async def _both_wait(installation: Installation) -> bool:
    return bool(await installation.sql.fetchval("SELECT count(*) = 2 FROM runs WHERE custom_status = 'waiting'"))

"""The shard's own bookkeeping."""

from __future__ import annotations

from everstep_orchestrator.pipeline.wakeups import Wakeups


def test_the_earliest_wakeup_counts() -> None:
    wakeups = Wakeups()
    wakeups.add(1, 50)
    wakeups.add(1, 30)
    wakeups.add(1, 40)
    assert wakeups.next() == 30
    assert wakeups.pop_due(30, 10) == [1]
    assert wakeups.next() is None


def test_due_runs_come_in_order_and_in_portions() -> None:
    wakeups = Wakeups()
    for key in sorted(range(100), key=lambda n: n * 37 % 100):
        wakeups.add(key, key * 10)
    assert wakeups.pop_due(500, 20) == list(range(20))
    assert wakeups.pop_due(500, 100) == list(range(20, 51))
    assert wakeups.next() == 510

"""What the open runs of an environment wait for, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everstep._core.timers import instant
from everstep.testing._problems import named
from everstep.testing._runs import StoredRun

_MOST_RUNS = 10


def state_of(runs: Iterable[StoredRun]) -> str:
    """A paragraph for each open run, or that there is none."""
    open_runs = [run for run in runs if run.open]
    if not open_runs:
        return "\nNo run is open."
    shown = "".join(f"\n{line}" for run in open_runs[:_MOST_RUNS] for line in _lines(run))
    more = len(open_runs) - _MOST_RUNS
    return shown + (f"\n… and {more} more open runs" if more > 0 else "")


def _lines(run: StoredRun) -> Iterator[str]:
    if run.problem is not None:
        yield str(run.problem)
        return
    waits = waits_of(run)
    yield f"{named(run.identity)} waits for " + ("; ".join(waits) if waits else "nothing that anybody could send")


def waits_of(run: StoredRun) -> list[str]:
    """What a run waits for."""
    from everstep.pending import Pending  # takes long to import, and few tests wait in vain

    pending = Pending()
    for seq, at, event in run.history():
        pending.add(seq, instant(at), event)
    return list(pending.lines())

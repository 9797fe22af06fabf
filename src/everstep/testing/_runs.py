"""The runs of an environment: what production keeps in Postgres and in memory, and the check that they replay.

A second run follows each: after every event it is fed the rows that were written, must do the same, and must then have
as much pending as the first one has. That finds what depends on a clock or on chance at once, and costs the same for
each event. What depends on something that changes later (a global variable, a file) shows only when all is done again:
so every run is replayed from its first row whenever its history has doubled, when it closes, and when the environment
does; then all that it waits for is compared one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Raw

from everstep._core.engine import (
    Activation,
    CannotRun,
    Engine,
    HistoryRow,
    Identity,
    LiveRun,
    Replay,
    StallReason,
)
from everstep.testing._clock import Alarm
from everstep.testing._problems import differs
from everstep_schemas import events
from everstep_schemas.events import Parent
from everstep_schemas.wire import Lifecycle


@dataclass(eq=False, slots=True)
class StoredRun:
    """A run, with its history, and with its code in memory while it is open and can run."""

    identity: Identity
    source: str
    started_at: int
    rows: list[HistoryRow] = field(default_factory=list)
    live: LiveRun | None = None
    status: str = "running"
    stalled: StallReason | None = None
    # What whoever waits for it is told, if it cannot go on.
    problem: BaseException | None = None
    closed_at: int | None = None
    custom_status: str | None = None
    attributes: bytes | None = None
    # How it ended, as it was told to everyone.
    end: tuple[str, Lifecycle] | None = None
    alarm: Alarm | None = None
    # What was said of the progress of what it waits for, and when: it leaves no event.
    renewed: dict[int, tuple[int, Raw | None]] = field(default_factory=dict)
    follower: Replay | None = None
    # How many events there were when all was replayed last.
    replayed: int = 0

    @property
    def workflow_id(self) -> str:
        return self.identity.workflow_id

    @property
    def run(self) -> int:
        return self.identity.run

    @property
    def workflow(self) -> str:
        return self.identity.workflow

    @property
    def version(self) -> int:
        return self.identity.version

    @property
    def parent(self) -> Parent | None:
        return self.identity.parent

    @property
    def open(self) -> bool:
        return self.status == "running"

    def history(self) -> list[tuple[int, int, events.AnyEvent]]:
        """Every event with its number and its instant in microseconds."""
        return [
            (seq, row.at, event)
            for row in self.rows
            for seq, event in enumerate(events.decode_events(row.data), row.seq)
        ]

    def record(self, activation: Activation) -> None:
        """Keep what one applied input has caused."""
        self.rows += activation.rows
        if activation.status_changed:
            self.custom_status = activation.custom_status
        if activation.attributes_changed and self.live is not None:
            self.attributes = self.live.attributes
        if activation.closed is not None:
            self.status = activation.closed
            self.closed_at = activation.rows[-1].at

    def forget(self) -> None:
        """Close its code."""
        if self.live is not None:
            self.live.evict()
            self.live = None
        self._let_go()

    # ---- the check

    def follow(self, engine: Engine, rows: list[HistoryRow]) -> None:
        """Replay what was written just now, and all of it if it is time for that. Raises `ReplayDiffers`."""
        if self.live is None:  # ended from outside, without its code
            return
        first = self.follower is None
        if self.follower is None:
            self.follower = engine.replay(self.identity)
        again = _fed(self.follower, self.identity, rows)
        if first or again.differing is not None or again.outline() != self.live.outline():
            self._compare(again)
        if first:
            self.replayed = self.live.events
        elif not self.open or self.live.events >= self.replayed * 2:
            self.check(engine)
        if not self.open:
            self._let_go()

    def check(self, engine: Engine) -> None:
        """Replay it from its first row. Raises `ReplayDiffers`."""
        if self.live is None:
            return
        self.replayed = self.live.events
        again = _fed(engine.replay(self.identity), self.identity, self.rows)
        try:
            self._compare(again)
        finally:
            again.evict()

    def _compare(self, again: LiveRun) -> None:
        for lease in again.leases():
            if (said := self.renewed.get(lease.seq)) is not None:
                again.restore(lease.seq, *said)
        problem = again.differing or (None if self.live is None else _difference(self.live, again))
        if problem is not None:
            raise differs(self.identity, problem)

    def _let_go(self) -> None:
        if self.follower is not None:
            self.follower.abandon()
            self.follower = None


def _fed(replay: Replay, identity: Identity, rows: list[HistoryRow]) -> LiveRun:
    """The run that a replay leads to after these rows."""
    try:
        for row in rows:
            replay.feed(row)
        return replay.finish()
    except CannotRun as error:
        raise differs(identity, error.reason) from error


def _difference(live: LiveRun, again: LiveRun) -> StallReason | None:
    """What is different about where two runs with the same history stand."""
    expected, got = live.standing(), again.standing()
    if expected == got:
        return None
    what = next(name for name in expected if expected[name] != got.get(name))
    return StallReason(
        kind="nondeterminism",
        message="",
        expected=f"{what} {expected[what]!r} (as the run stood after it)",
        got=f"{what} {got.get(what)!r}",
        seq=live.events,
    )

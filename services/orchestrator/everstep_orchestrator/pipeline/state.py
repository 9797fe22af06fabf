"""What the owner of a shard holds in memory: its runs, its positions, its timers, and the commit it is writing.

`Shard` is authoritative between two commits, Postgres at every commit. When the two may differ (a commit was refused,
fenced off or has an unknown outcome), the whole shard is dropped and read again from what is stored.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from everstep._core.engine import Activation, CannotRun, Identity, LiveRun, StallReason
from everstep_orchestrator.kafka.publisher import Ticket
from everstep_orchestrator.membership import Claim
from everstep_orchestrator.pipeline.incoming import Record
from everstep_orchestrator.store import ParkedRow, RunRow, RunUpdate, ShardCommit
from everstep_schemas.names import run_key
from everstep_schemas.wire import Outgoing, Signal, parked_decoder


class Entry:
    """A run as its owner knows it: the stored row, and the live run if it is in memory."""

    __slots__ = ("cannot_run", "live", "row", "touched")

    def __init__(self, row: RunRow, live: LiveRun | None = None) -> None:
        self.row = row
        self.live = live
        self.cannot_run: CannotRun | None = None
        self.touched = 0  # the number of the last commit that holds something of this run

    @property
    def identity(self) -> Identity:
        row = self.row
        return Identity(
            run_key=row.run_key,
            workflow_id=row.workflow_id,
            run=row.run,
            workflow=row.workflow,
            version=row.version,
            nonce=row.nonce,
        )

    def change(self, **columns: object) -> None:
        """Sets columns of the stored row; the caller also adds the run to the draft."""
        self.row = msgspec.structs.replace(self.row, **columns)

    @property
    def open(self) -> bool:
        return self.row.status == "running"

    @property
    def runnable(self) -> bool:
        return self.open and self.row.condition is None

    @property
    def loaded(self) -> LiveRun:
        """The live run, which the loader has put here before anything is decided for it."""
        if self.live is None:
            raise RuntimeError(f"run {self.row.workflow_id!r} was to be stepped before it was loaded")
        return self.live

    def evict(self) -> None:
        """Forgets the live run; it can be replayed from history."""
        if self.live is not None:
            self.live.evict()
            self.live = None


@dataclass(slots=True)
class Tally:
    """What to count once a commit is durable."""

    started: list[str] = field(default_factory=list)
    closed: list[tuple[str, str, float]] = field(default_factory=list)
    activities: Counter[tuple[str, str]] = field(default_factory=Counter)
    blocked: list[str] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    lateness_seconds: list[float] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    stalled: int = 0  # how many more, or fewer, than before
    parked: int = 0


@dataclass(slots=True)
class Census:
    """How many runs of a shard are open, how many of them stalled, and how many inputs wait."""

    open: Counter[str] = field(default_factory=Counter)
    stalled: int = 0
    parked: int = 0

    def add(self, tally: Tally) -> None:
        """What a durable commit changes."""
        self.open.update(tally.created)
        self.open.subtract(workflow for workflow, _, _ in tally.closed)
        self.stalled += tally.stalled
        self.parked += tally.parked


@dataclass(slots=True)
class Draft:
    """The next commit of a shard, as far as it is written."""

    commit_no: int
    history: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    created: dict[int, Entry] = field(default_factory=dict)
    changed: dict[int, Entry] = field(default_factory=dict)
    refs: list[tuple[int, int]] = field(default_factory=list)
    messages: list[Outgoing] = field(default_factory=list)
    bodies: list[Outgoing] = field(default_factory=list)
    parked: list[ParkedRow] = field(default_factory=list)
    unparked: list[int] = field(default_factory=list)
    closed: list[Entry] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    items: int = 0

    def record(self, entry: Entry, activation: Activation) -> None:
        """Adds an activation's rows, and its messages with a reference to rebuild them from."""
        key = entry.row.run_key
        self.history.extend((key, row.seq, row.at, row.data) for row in activation.rows)
        if activation.messages:
            self.refs.extend((key, row.seq) for row in activation.rows)
            self.messages.extend(activation.messages)

    def change(self, entry: Entry) -> None:
        """The run's row is to be written as it stands when the commit begins."""
        if entry.row.run_key not in self.created:
            self.changed[entry.row.run_key] = entry

    @property
    def outgoing(self) -> list[Outgoing]:
        return self.messages + self.bodies


class Wakeups:
    """When runs want to be looked at: exact for runs in memory, a lower bound for the others."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._at: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    def add(self, key: int, at: int) -> None:
        """Look at run `key` at `at`, unless it is looked at earlier anyway."""
        known = self._at.get(key)
        if known is None or at < known:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))

    def next(self) -> int | None:
        """The earliest instant, or None."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: int, limit: int) -> list[int]:
        """The keys of runs that are due, at most `limit` of them."""
        due: list[int] = []
        while len(due) < limit and (at := self.next()) is not None and at <= now:
            key = heapq.heappop(self._heap)[1]
            del self._at[key]
            due.append(key)
        return due


CRASHED = StallReason(
    kind="crashed",
    message="an input of this run was being applied when the orchestrator died, and not for the first time; correct "
    "the workflow (endless loop in C code, memory, native crash) and deploy it, or terminate the run",
)


@dataclass(frozen=True, slots=True)
class Early:
    """A signal that came before its run; `number` is that of its stored row."""

    number: int
    expires_at: int
    signal: Signal


@dataclass(frozen=True, slots=True)
class Suspect:
    """A run that is set aside, for this reason, when its next input is met."""

    run_key: int
    reason: StallReason


_STORED = ("commit_no", "submissions_position", "inbox_position", "last_number", "published")


class Shard:
    """An owned shard."""

    def __init__(self, claim: Claim, submissions: int, inbox: int) -> None:
        self._claim = claim
        self._commit: ShardCommit | None = None
        self.number = claim.shard
        self.epoch = claim.epoch
        self.commit_no = claim.commit_no
        self.submissions_position = submissions
        self.inbox_position = inbox
        self.last_number = claim.last_number
        self.published = claim.published
        self.entries: dict[int, Entry] = {}
        self.latest: dict[str, Entry | None] = {}
        self.sources: dict[tuple[str, str], RunRow | None] = {}
        self.wakeups = Wakeups()
        self.wakeups_known_until = 0
        self.backlog: deque[Record] = deque()
        self.to_resume: deque[int] = deque()
        self.early: dict[str, list[Early]] = {}
        self.census = Census()
        self.refused: deque[tuple[Ticket, Outgoing, str]] = deque()
        self.draft: Draft | None = None
        self.in_flight: Draft | None = None
        self.tickets: deque[Ticket] = deque()
        self.one_by_one = 0  # so many inputs are still to be tried each alone, after claims without progress
        self.suspect = None if claim.trying is None else Suspect(claim.trying, CRASHED)
        self.draining = False
        self.lost = False

    def writing(self) -> Draft:
        """The draft of the next commit."""
        if self.draft is None:
            self.draft = Draft(self.commit_no + (2 if self.in_flight else 1))
        return self.draft

    def next_number(self) -> int:
        """A number that this shard never gave before; it counts once the commit does."""
        self.last_number += 1
        return self.last_number

    def next_run_key(self) -> int:
        return run_key(self.number, self.next_number())

    def know(self, entry: Entry) -> None:
        """Keeps a run in memory, as the latest of its id if it is."""
        self.entries[entry.row.run_key] = entry
        known = self.latest.get(entry.row.workflow_id)
        if known is None or known.row.run < entry.row.run:
            self.latest[entry.row.workflow_id] = entry

    def forget(self, entry: Entry) -> None:
        """Drops a run from memory; it is loaded again when it is needed."""
        entry.evict()
        self.entries.pop(entry.row.run_key, None)
        if self.latest.get(entry.row.workflow_id) is entry:
            del self.latest[entry.row.workflow_id]

    def keep_early(self, row: ParkedRow) -> None:
        """Remembers a stored signal for an id that no run has yet."""
        signal = parked_decoder.decode(row.data)
        if isinstance(signal, Signal) and row.expires_at is not None:
            self.early.setdefault(row.workflow_id, []).append(Early(row.number, row.expires_at, signal))

    def expired_early(self, now: int) -> list[Early]:
        """Takes out the signals whose runs never came."""
        expired = [early for waiting in self.early.values() for early in waiting if early.expires_at <= now]
        for early in expired:
            left = self.early[early.signal.workflow_id]
            left.remove(early)
            if not left:
                del self.early[early.signal.workflow_id]
        return expired

    def is_next(self, record: Record, *, submissions: bool) -> bool:
        """Whether the record is still to be applied: one can be fetched again after a new assignment."""
        return record.offset >= (self.submissions_position if submissions else self.inbox_position)

    def advance(self, record: Record, *, submissions: bool) -> None:
        """The record is applied once the draft is committed."""
        if submissions:
            self.submissions_position = record.offset + 1
        else:
            self.inbox_position = record.offset + 1

    def acknowledged(self) -> int:
        """The number of the last commit whose messages, and those of all before it, Kafka has acknowledged."""
        while self.tickets and self.tickets[0].pending == 0:
            self.published = max(self.published, self.tickets.popleft().commit_no)
        return self.published

    def begin_commit(self) -> ShardCommit:
        """Closes the draft: from here on it is in flight, and the next input opens a new one."""
        draft = self.writing()
        self.draft, self.in_flight = None, draft
        self._commit = ShardCommit(
            shard=self.number,
            epoch=self.epoch,
            commit_no=draft.commit_no,
            submissions_position=self.submissions_position,
            inbox_position=self.inbox_position,
            last_number=self.last_number,
            published=self.acknowledged(),
            history=draft.history,
            new_runs=[entry.row for entry in draft.created.values()],
            updates=[_update(entry.row) for entry in draft.changed.values()],
            refs=draft.refs,
            bodies=draft.bodies,
            parked=draft.parked,
            unparked=draft.unparked,
        )
        return self._commit

    def end_commit(self) -> Draft | None:
        """The commit in flight is durable."""
        draft, self.in_flight = self.in_flight, None
        if draft is not None and self._commit is not None:
            stored = {name: getattr(self._commit, name) for name in _STORED}
            self._claim = dataclasses.replace(self._claim, **stored, claims_without_progress=0, trying=None)
            self.commit_no = draft.commit_no
        return draft

    @property
    def stored(self) -> Claim:
        """The shard as Postgres holds it."""
        return self._claim

    def evict_all(self) -> None:
        """Leaves nothing of the authors' frames behind."""
        for entry in self.entries.values():
            entry.evict()
        self.entries.clear()
        self.latest.clear()


def _update(row: RunRow) -> RunUpdate:
    return RunUpdate(**{name: getattr(row, name) for name in RunUpdate.__struct_fields__})


def fair(shards: Iterable[Shard], limit: int) -> list[tuple[Shard, Record]]:
    """Up to `limit` records, taken from the shards' backlogs in turns of a few."""
    taken: list[tuple[Shard, Record]] = []
    waiting = deque(shard for shard in shards if shard.backlog)
    while waiting and len(taken) < limit:
        shard = waiting.popleft()
        count = 1 if shard.one_by_one else min(64, len(shard.backlog), limit - len(taken))
        taken.extend((shard, shard.backlog.popleft()) for _ in range(count))
        if shard.backlog and not shard.one_by_one:
            waiting.append(shard)
    return taken

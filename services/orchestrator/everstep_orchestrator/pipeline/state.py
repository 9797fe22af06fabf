"""What the owner of a shard holds in memory: its runs, its positions, its timers, and the commit it is writing.

`Shard` is authoritative between two commits, Postgres at every commit. When the two may differ (a commit was refused,
fenced off or has an unknown outcome), the whole shard is dropped and read again from what is stored.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from everstep._core.engine import StallReason
from everstep_orchestrator.kafka.publisher import Ticket
from everstep_orchestrator.membership import Claim
from everstep_orchestrator.pipeline.drafting import Census, Draft, Entry
from everstep_orchestrator.pipeline.incoming import Record
from everstep_orchestrator.pipeline.leases import Leases
from everstep_orchestrator.pipeline.wakeups import Wakeups
from everstep_orchestrator.store import ParkedRow, RunRow, RunUpdate, ShardCommit
from everstep_schemas.names import run_key
from everstep_schemas.wire import Outgoing, Signal, parked_decoder

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

    def __init__(self, claim: Claim, submissions: int, inbox: int, opened_at: int) -> None:
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
        self.latest: dict[str, Entry] = {}
        self._by_source: dict[tuple[str, str], Entry] = {}
        self.wakeups = Wakeups()
        self.wakeups_known_until = 0
        self.leases = Leases(opened_at)
        self.heard = opened_at  # everything in the inbox until then has been applied
        self.backlog: deque[Record] = deque()
        self.to_resume: deque[int] = deque()
        self.early: dict[str, list[Early]] = {}
        self.census = Census()
        self.refused: deque[tuple[Ticket, Outgoing, str]] = deque()
        self.owed: list[tuple[int, Sequence[Outgoing]]] = []  # by commit: what the last owner may not have published
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

    @property
    def idle(self) -> bool:
        """Everything that was decided is durable."""
        return self.draft is None and self.in_flight is None

    @property
    def takes_input(self) -> bool:
        """A shard that is tried one by one takes the next input when the last is durable."""
        return not self.draining and (self.idle or not self.one_by_one)

    def know(self, row: RunRow) -> Entry:
        """Keeps a run in memory. One that is there already is newer than the row, and stays."""
        entry = self.entries.get(row.run_key)
        if entry is None:
            entry = self.entries[row.run_key] = Entry(row)
            self._by_source[row.workflow_id, row.source] = entry
        return entry

    def know_latest(self, row: RunRow) -> Entry:
        """Keeps the newest run of an id in memory."""
        entry = self.latest[row.workflow_id] = self.know(row)
        return entry

    def created_by(self, workflow_id: str, source: str) -> Entry | None:
        """The run in memory that this submission created."""
        return self._by_source.get((workflow_id, source))

    def forget(self, entry: Entry) -> None:
        """Drops a run from memory; it is loaded again when it is needed."""
        entry.evict()
        row = entry.row
        if self.entries.get(row.run_key) is entry:
            del self.entries[row.run_key]
            self._by_source.pop((row.workflow_id, row.source), None)
        if self.latest.get(row.workflow_id) is entry:
            del self.latest[row.workflow_id]

    def keep_early(self, row: ParkedRow) -> None:
        """Remembers a stored signal for an id that no run has yet."""
        signal = parked_decoder.decode(row.data)
        if isinstance(signal, Signal) and row.expires_at is not None:
            self.early.setdefault(row.workflow_id, []).append(Early(row.number, row.expires_at, signal))

    def expired_early(self, now: int) -> list[Early]:
        """Takes out the signals whose runs never came."""
        expired = [early for waiting in self.early.values() for early in waiting if early.expires_at <= now]
        for workflow_id in {early.signal.workflow_id for early in expired}:
            left = [early for early in self.early.pop(workflow_id) if early.expires_at > now]
            if left:
                self.early[workflow_id] = left
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

    def add_unstored_wakeups(self) -> None:
        """Adds the wake-ups in the known time that Postgres may not show yet."""
        for draft in (self.in_flight, self.draft):
            for key, entry in (*draft.created.items(), *draft.changed.items()) if draft else ():
                at = entry.row.next_wakeup_at
                if at is not None and at <= self.wakeups_known_until:
                    self.wakeups.add(key, at)

    def tried(self) -> None:
        """An input is in the draft, whatever it caused."""
        self.writing().items += 1
        self.one_by_one = max(0, self.one_by_one - 1)

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
            heartbeats=list(draft.heartbeats.values()),
            silenced=draft.silenced,
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
        self._by_source.clear()


def _update(row: RunRow) -> RunUpdate:
    return RunUpdate(**{name: getattr(row, name) for name in RunUpdate.__struct_fields__})

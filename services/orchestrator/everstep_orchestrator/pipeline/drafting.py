"""Runs as their owner knows them, and the commit that is being written about them.

Whatever a draft holds of a run marks the run with the draft's number: until that commit is durable the run stays in
memory, so that Postgres is never asked about a run that it does not know completely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from everstep._core.engine import Activation, CannotRun, Identity, LiveRun
from everstep_orchestrator.store import HeartbeatRow, ParkedRow, RunRow
from everstep_schemas.events import Parent
from everstep_schemas.wire import Outgoing

_parents = msgspec.json.Decoder(Parent)


class Entry:
    """A run as its owner knows it: the stored row, and the live run if it is in memory."""

    __slots__ = ("cannot_run", "live", "row", "said", "touched")

    def __init__(self, row: RunRow, live: LiveRun | None = None) -> None:
        self.row = row
        self.live = live
        self.cannot_run: CannotRun | None = None
        self.said = False  # whether a heartbeat of this run may be stored
        self.touched = 0  # the number of the last commit that holds something of this run: until it is durable, stay

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
            parent=self.parent,
        )

    @property
    def workflow_id(self) -> str:
        return self.row.workflow_id

    @property
    def run(self) -> int:
        return self.row.run

    @property
    def workflow(self) -> str:
        return self.row.workflow

    @property
    def version(self) -> int:
        return self.row.version

    @property
    def source(self) -> str:
        return self.row.source

    @property
    def status(self) -> str:
        return self.row.status

    @property
    def started_at(self) -> int:
        return self.row.started_at

    @property
    def parent(self) -> Parent | None:
        """Who waits for the run's end."""
        return None if self.row.parent is None else _parents.decode(self.row.parent)

    def change(self, **columns: object) -> None:
        """Sets columns of the stored row; `Draft.change` writes them."""
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
    """What to count, and to tell operators, once a commit is durable."""

    started: list[str] = field(default_factory=list)
    closed: list[tuple[str, str, float]] = field(default_factory=list)
    activities: Counter[tuple[str, str]] = field(default_factory=Counter)
    blocked: list[str] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    lateness_seconds: list[float] = field(default_factory=list)
    warnings: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
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
    heartbeats: dict[tuple[int, int], HeartbeatRow] = field(default_factory=dict)
    silenced: list[int] = field(default_factory=list)
    closed: list[Entry] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    items: int = 0

    def create(self, entry: Entry) -> None:
        """The run is new."""
        self.created[entry.row.run_key] = entry
        entry.touched = self.commit_no

    def record(self, entry: Entry, activation: Activation) -> None:
        """Adds an activation's rows, and its messages with a reference to rebuild them from."""
        key = entry.row.run_key
        entry.touched = self.commit_no
        self.history.extend((key, row.seq, row.at, row.data) for row in activation.rows)
        if activation.messages:
            self.refs.extend((key, row.seq) for row in activation.rows)
            self.messages.extend(activation.messages)

    def change(self, entry: Entry) -> None:
        """The run's row is to be written as it stands when the commit begins."""
        entry.touched = self.commit_no
        if entry.row.run_key not in self.created:
            self.changed[entry.row.run_key] = entry

    def keep_heartbeat(self, row: HeartbeatRow) -> None:
        """The newest of each activity or callback counts."""
        self.heartbeats[row.run_key, row.seq] = row

    def silence(self, key: int) -> None:
        """The run has closed: nothing that was said of its progress is kept."""
        self.silenced.append(key)
        for said in [said for said in self.heartbeats if said[0] == key]:
            del self.heartbeats[said]

    @property
    def size(self) -> int:
        """How many rows, about, this will write."""
        return len(self.history) + len(self.bodies) + len(self.parked) + len(self.heartbeats)

    @property
    def outgoing(self) -> list[Outgoing]:
        return self.messages + self.bodies

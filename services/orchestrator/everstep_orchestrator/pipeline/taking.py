"""Takes the inputs of one turn from what waits in the shards.

A shard whose owners keep dying, or whose commit was refused, takes one input at a time: what fails then is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from everstep._core.reception import Request
from everstep._core.starting import admission
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.incoming import Callback, Child, Incoming, Record, Result
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.state import Shard
from everstep_schemas import wire
from everstep_schemas.names import run_key

RECORDS_PER_TURN = 500
WAKEUPS_PER_TURN = 500
RESUMES_PER_TURN = 50
FAIR_SHARE = 64

Read = Callable[[Record], Incoming]


def take_refused(shards: Sequence[Shard]) -> Work:
    """The messages that Kafka refuses, also of shards being drained, whose commits count as unpublished until then."""
    work = Work()
    for shard in shards:
        while shard.refused and (shard.idle or not shard.one_by_one):
            work.refused.append((shard, *shard.refused.popleft()))
            if shard.one_by_one:
                break
    return work


def take_inputs(work: Work, shards: Sequence[Shard], read: Read, now: int) -> None:
    """Adds records, wake-ups and resumes, in fair shares."""
    busy = {id(shard) for shard, *_ in work.refused}
    cautious = [shard for shard in shards if shard.takes_input and shard.one_by_one and id(shard) not in busy]
    for shard in cautious:
        _take_one(work, shard, read, now)
    plain = [shard for shard in shards if shard.takes_input and not shard.one_by_one]
    work.records.extend((shard, record, read(record)) for shard, record in _fair(plain, RECORDS_PER_TURN))
    for shard in plain:
        due = shard.wakeups.pop_due(now, -(-WAKEUPS_PER_TURN // len(plain)))
        work.wakeups.extend((shard, key) for key in due)
        while shard.to_resume and len(work.resumes) < RESUMES_PER_TURN:
            work.resumes.append((shard, shard.to_resume.popleft()))


def _take_one(work: Work, shard: Shard, read: Read, now: int) -> None:
    """Resumes come first: while some are left, the shard goes on being tried one by one."""
    if shard.to_resume:
        work.resumes.append((shard, shard.to_resume.popleft()))
    elif shard.backlog:
        record = shard.backlog.popleft()
        work.records.append((shard, record, read(record)))
    else:
        work.wakeups.extend((shard, key) for key in shard.wakeups.pop_due(now, 1))


def _fair(shards: Sequence[Shard], limit: int) -> list[tuple[Shard, Record]]:
    """Up to `limit` records, taken from the shards' backlogs in turns of a few."""
    taken: list[tuple[Shard, Record]] = []
    waiting = deque(shard for shard in shards if shard.backlog)
    while waiting and len(taken) < limit:
        shard = waiting.popleft()
        count = min(FAIR_SHARE, len(shard.backlog), limit - len(taken))
        taken.extend((shard, shard.backlog.popleft()) for _ in range(count))
        if shard.backlog:
            waiting.append(shard)
    return taken


def touched(work: Work) -> list[tuple[Shard, int | None]]:
    """The runs that are about to be touched in the shards that are tried one by one."""
    keys = [(shard, _touched_key(shard, incoming)) for shard, _, incoming in work.records if shard.one_by_one]
    keys += [(shard, key) for shard, key in (*work.wakeups, *work.resumes) if shard.one_by_one]
    return [(shard, key) for shard, key in keys if not shard.lost]


def _touched_key(shard: Shard, incoming: Incoming) -> int | None:
    match incoming:
        case Result() | Callback():
            return incoming.token.run_key
        case Request(submission=submission):
            latest = shard.latest.get(submission.workflow_id)
            creates = isinstance(submission, wire.Start) and _creates(submission, latest)
        case Child(message=message):
            latest = shard.latest.get(message.workflow_id)
            creates = isinstance(message, wire.ChildStart) and latest is None
        case _:
            return None
    if creates:
        return run_key(shard.number, shard.last_number + 1)
    return None if latest is None else latest.row.run_key


def _creates(start: wire.Start, latest: Entry | None) -> bool:
    return admission(start, exists=latest is not None, is_open=latest is not None and latest.open) in (
        "create",
        "replace",
    )

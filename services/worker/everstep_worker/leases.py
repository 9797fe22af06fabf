"""Holds of this worker on attempts that last: check-outs, their renewal, heartbeats, and giving them back.

An attempt that is *checked out* is the run's business from then on: Kafka has a record that says who runs it, so the
command's offset may pass, and nobody begins it elsewhere as long as the hold is renewed. One message per partition of
the inbox renews all that belong to it, three times per lease. Heartbeats go with these messages or in ones of their
own: an attempt's first at once, later ones no more often than its pause allows, always the latest. What they belong to
has been checked out before, which the order in a partition guarantees.

No more than one such message per partition is under way: while Kafka is away they do not pile up, and what is sent when
it is back is what holds then. None of this is ever waited for by an activity, but for a check-out that has to stand
before it begins.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from msgspec import Raw

from everstep_schemas.wire import NULL, Heartbeat
from everstep_worker.answers import Answers
from everstep_worker.attempts import Attempt, Lane
from everstep_worker.deliveries import Delivery
from everstep_worker.meters import Meters
from everstep_worker.results import Parcel
from everstep_worker.times import Times

MOST_TOKENS = 1_000  # in one message, so that it fits beside the largest payload

Said = tuple[Attempt, Heartbeat | None]


class Leases:
    """What is checked out by one worker. `refused` is told of an attempt whose check-out nobody can receive."""

    def __init__(
        self,
        answers: Answers,
        times: Times,
        meters: Meters,
        send: Callable[[Parcel], None],
        refused: Callable[[Attempt], None],
    ) -> None:
        self._answers = answers
        self._times = times
        self._meters = meters
        self._send = send
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._held: defaultdict[Lane, dict[Attempt, None]] = defaultdict(dict)
        self._unsaid: dict[Attempt, None] = {}  # with a heartbeat to report
        self._under_way: Counter[Lane] = Counter()
        self._overdue: set[Lane] = set()  # to be renewed as soon as nothing is under way
        self._renewing: asyncio.TimerHandle | None = None
        self._reporting: asyncio.TimerHandle | None = None
        self._report_at = math.inf

    def __len__(self) -> int:
        return sum(len(attempts) for attempts in self._held.values())

    # ---- taking and giving back

    def check_out(self, attempt: Attempt) -> asyncio.Future[None]:
        """Done once Kafka has it; at once if it was checked out before. Never raises."""
        if attempt.lease is None:
            attempt.lease = self._loop.create_future()
            self._held[attempt.lane][attempt] = None
            self._meters.checked_out(attempt.command.activity)
            self._say_started(attempt, attempt.deliveries, sent=partial(self._acknowledged, attempt))
            self._renew_later()
        return attempt.lease

    def check_out_again(self, attempt: Attempt, delivery: Delivery) -> None:
        """The hold has run out elsewhere, and here the attempt goes on: `delivery` brought it anew."""
        self._say_started(attempt, [delivery], again=True)

    def forget(self, attempt: Attempt) -> None:
        """It was answered, or nobody waits for it: it is no longer renewed."""
        if attempt.lease is not None:
            self._held[attempt.lane].pop(attempt, None)
            self._unsaid.pop(attempt, None)

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """Their code has been stopped; they may begin elsewhere, where the last one stood."""
        for lane, some in _by_lane(attempt for attempt in attempts if attempt.lease is not None).items():
            for said in self._batches(some, now=math.inf):
                self._renew(lane, said, released=True)
            for attempt in some:
                self.forget(attempt)

    def close(self) -> None:
        for timer in (self._renewing, self._reporting):
            if timer is not None:
                timer.cancel()

    def _say_started(
        self,
        attempt: Attempt,
        deliveries: list[Delivery],
        *,
        again: bool = False,
        sent: Callable[[], None] | None = None,
    ) -> None:
        command = attempt.command
        message = self._answers.started(command, self._times.lease_seconds, attempt.traceparent, again=again)
        about = (command, attempt.record)
        self._send(Parcel(message, deliveries, about, sent=sent, refused=partial(self._refused, attempt)))

    def _acknowledged(self, attempt: Attempt) -> None:
        attempt.deliveries = []
        if attempt.lease is not None and not attempt.lease.done():
            attempt.lease.set_result(None)

    # ---- heartbeats

    def hear(self, attempt: Attempt) -> None:
        """Its code has made a heartbeat that is not reported yet."""
        if not attempt.is_over:
            self.check_out(attempt)
            self._unsaid[attempt] = None
            self._report_later(attempt.say_at)

    def _report_later(self, at: float) -> None:
        if at >= self._report_at:
            return
        if self._reporting is not None:
            self._reporting.cancel()
        self._report_at = at
        self._reporting = self._loop.call_later(max(0.0, at - time.monotonic()), self._report)

    def _report(self) -> None:
        self._reporting, self._report_at = None, math.inf
        now = time.monotonic()
        due = _by_lane(attempt for attempt in self._unsaid if attempt.say_at <= now)
        for lane, attempts in due.items():
            if lane not in self._under_way:  # else what is due is reported when that is acknowledged
                for said in self._batches(attempts, now):
                    self._renew(lane, said)
        self._report_later(min((attempt.say_at for attempt in self._unsaid if attempt.say_at > now), default=math.inf))

    # ---- renewing

    def _renew_later(self) -> None:
        if self._renewing is None:
            self._renewing = self._loop.call_later(self._times.renew_seconds, self._renew_all)

    def _renew_all(self) -> None:
        self._renewing = None
        for lane in [lane for lane, attempts in self._held.items() if not attempts]:
            del self._held[lane]
        for lane in self._held:
            self._renew_lane(lane)
        if self._held:
            self._renew_later()

    def _renew_lane(self, lane: Lane) -> None:
        if lane in self._under_way:
            self._overdue.add(lane)
            return
        self._overdue.discard(lane)
        for said in self._batches(self._held[lane], time.monotonic()):
            self._meters.renewed(len(said))
            self._renew(lane, said)

    def _renew(self, lane: Lane, said: list[Said], *, released: bool = False) -> None:
        tokens = [attempt.command.token for attempt, _ in said]
        heartbeats = [heartbeat for _, heartbeat in said if heartbeat is not None]
        kept, given = ([], tokens) if released else (tokens, [])
        reply_to = said[0][0].command.reply_to
        message = self._answers.renewed(reply_to, str(uuid.uuid4()), kept, heartbeats, given)
        self._under_way[lane] += 1
        self._send(Parcel(message, sent=partial(self._renewed, lane)))

    def _renewed(self, lane: Lane) -> None:
        self._under_way[lane] -= 1
        if self._under_way[lane]:
            return
        del self._under_way[lane]  # so that it holds only lanes where something is
        if lane in self._overdue:
            self._renew_lane(lane)
        if self._unsaid:
            self._report_later(time.monotonic())

    def _batches(self, attempts: Iterable[Attempt], now: float) -> Iterator[list[Said]]:
        """The attempts with the heartbeats that may be reported now, in as many as fit into one record."""
        batch: list[Said] = []
        size = 0
        for attempt in attempts:
            heartbeat = _heartbeat(attempt) if attempt in self._unsaid and attempt.say_at <= now else None
            if heartbeat is not None:
                del self._unsaid[attempt]
            more = 0 if heartbeat is None else len(bytes(heartbeat.details))
            if batch and (len(batch) == MOST_TOKENS or size + more > self._answers.max_payload_bytes):
                yield batch
                batch, size = [], 0
            batch.append((attempt, heartbeat))
            size += more
        if batch:
            yield batch


def _heartbeat(attempt: Attempt) -> Heartbeat:
    details = attempt.take()
    return Heartbeat(token=attempt.command.token, details=NULL if details is None else Raw(bytes(details)))


def _by_lane(attempts: Iterable[Attempt]) -> dict[Lane, list[Attempt]]:
    found: defaultdict[Lane, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        found[attempt.lane].append(attempt)
    return found

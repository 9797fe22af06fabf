"""How check-outs, renewals and heartbeats become messages, on a Kafka that a test holds back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from tests.worker.attempts import attempt_of
from tests.worker.kit import eventually

from everstep_schemas.wire import ActivitiesRenewed, ActivityStarted, inbox_decoder
from everstep_worker import leases as module
from everstep_worker.answers import Answers
from everstep_worker.attempts import Attempt
from everstep_worker.deliveries import Partition
from everstep_worker.leases import Leases
from everstep_worker.meters import Meters
from everstep_worker.results import Parcel
from everstep_worker.times import Times

TIMES = Times(lease_seconds=0.03, heartbeat_seconds=600.0)
SLOW = Times(lease_seconds=3600.0, heartbeat_seconds=600.0)


class Post:
    """Leases, and what they send until somebody acknowledges it."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.parcels: list[Parcel] = []
        self.refused: list[Attempt] = []
        answers = Answers("w", max_payload_bytes=1000)
        self.leases = Leases(answers, times, Meters(()), self.parcels.append, self.refused.append)

    def messages(self) -> list[Any]:
        return [inbox_decoder.decode(parcel.message.value) for parcel in self.parcels]

    @property
    def renewals(self) -> list[ActivitiesRenewed]:
        return [message for message in self.messages() if isinstance(message, ActivitiesRenewed)]

    def acknowledge(self) -> None:
        """All that is under way."""
        under_way = list(self.parcels)
        self.parcels.clear()
        for parcel in under_way:
            parcel.close()

    def held(self, count: int = 1, **more: Any) -> list[Attempt]:
        """So many attempts that are checked out."""
        attempts = [attempt_of(times=self.times, **more) for _ in range(count)]
        for attempt in attempts:
            self.leases.check_out(attempt)
        self.acknowledge()
        return attempts

    def beat(self, attempt: Attempt, details: object = None) -> None:
        attempt.beat(details, None if details is None else json.dumps(details).encode())
        self.leases.hear(attempt)

    async def renewed(self, count: int) -> list[ActivitiesRenewed]:
        await eventually(lambda: len(self.renewals) >= count)
        return self.renewals


@pytest.fixture
async def post() -> Any:
    opened = Post(SLOW)
    yield opened
    opened.leases.close()


async def test_a_check_out_counts_once_it_is_acknowledged_and_is_said_once(post: Post) -> None:
    partition = Partition(1)
    attempt = attempt_of(partition=partition)
    offset = attempt.record.offset
    partition.watermark.begin(offset)
    lease = post.leases.check_out(attempt)
    assert post.leases.check_out(attempt) is lease
    assert [type(message) for message in post.messages()] == [ActivityStarted]
    assert (lease.done(), partition.watermark.position) == (False, offset)
    post.acknowledge()
    assert (lease.done(), partition.watermark.position) == (True, offset + 1)
    assert (attempt.deliveries, len(post.leases)) == ([], 1)


async def test_what_nobody_can_receive_is_told(post: Post) -> None:
    attempt = attempt_of()
    post.leases.check_out(attempt)
    [parcel] = post.parcels
    assert parcel.refused is not None
    parcel.refused()
    assert post.refused == [attempt]
    assert parcel.about == (attempt.command, attempt.record)


async def test_renewals_do_not_pile_up_while_nothing_is_acknowledged() -> None:
    post = Post(TIMES)
    first, second = post.held(2)
    await post.renewed(1)
    post.leases.forget(first)
    other = attempt_of(shard=1, times=TIMES)
    post.leases.check_out(other)  # its partition is not held up by that
    await post.renewed(2)
    await eventually(lambda: len(post.leases._overdue) == 2)
    assert [one.tokens for one in post.renewals] == [
        (first.command.token, second.command.token),
        (other.command.token,),
    ]
    post.acknowledge()
    # What was due meanwhile is sent at once, and says what holds now.
    assert [one.tokens for one in post.renewals] == [(second.command.token,), (other.command.token,)]
    post.leases.close()


async def test_nothing_is_said_when_nothing_is_held() -> None:
    post = Post(TIMES)
    (attempt,) = post.held()
    await post.renewed(1)
    post.leases.forget(attempt)
    post.acknowledge()
    await eventually(lambda: post.leases._renewing is None)
    assert post.parcels == []


async def test_more_than_fit_into_one_message_go_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TOKENS", 2)
    post = Post(TIMES)
    attempts = post.held(5)
    renewals = await post.renewed(3)
    assert [len(one.tokens) for one in renewals] == [2, 2, 1]
    assert [token for one in renewals for token in one.tokens] == [attempt.command.token for attempt in attempts]
    post.leases.close()


async def test_large_details_go_in_several(post: Post) -> None:
    attempts = post.held(3)
    for attempt in attempts:
        post.beat(attempt, "x" * 498)  # 500 bytes of 1,000
    renewals = await post.renewed(2)
    assert [len(one.heartbeats) for one in renewals] == [2, 1]


async def test_what_is_said_in_one_step_goes_in_one_message(post: Post) -> None:
    attempts = post.held(3)
    for number, attempt in enumerate(attempts):
        post.beat(attempt, number)
    [renewed] = await post.renewed(1)
    assert [bytes(beat.details) for beat in renewed.heartbeats] == [b"0", b"1", b"2"]
    assert renewed.tokens == tuple(attempt.command.token for attempt in attempts)


async def test_a_heartbeat_while_one_is_under_way_waits_and_the_latest_is_sent(post: Post) -> None:
    first, second = post.held(2)
    post.beat(first, 1)
    await post.renewed(1)
    for number in range(10):
        post.beat(second, number)
    assert len(post.renewals) == 1
    post.acknowledge()
    [renewed] = await post.renewed(1)
    assert [bytes(beat.details) for beat in renewed.heartbeats] == [b"9"]


async def test_a_heartbeat_checks_out_first(post: Post) -> None:
    attempt = attempt_of(times=SLOW)
    post.beat(attempt)
    await post.renewed(1)
    started, renewed = post.messages()
    assert (started.token, renewed.tokens) == (attempt.command.token, (attempt.command.token,))
    assert bytes(renewed.heartbeats[0].details) == b"null"


async def test_what_is_over_says_nothing_more(post: Post) -> None:
    (attempt,) = post.held()
    post.leases.forget(attempt)
    attempt.ended = True
    post.beat(attempt, 1)
    assert post.messages() == []
    assert post.leases._report_at == float("inf")


async def test_given_back_with_what_was_not_said_yet(post: Post) -> None:
    said, silent = post.held(2)
    unknown = attempt_of(times=SLOW)
    said.beat(None, b"1")
    post.leases.hear(said)
    await post.renewed(1)
    post.beat(said, 2)  # too soon to be reported
    post.acknowledge()
    post.leases.give_back([said, silent, unknown])
    [message] = post.messages()
    assert message.tokens == ()
    assert message.released == (said.command.token, silent.command.token)
    assert [(beat.token, beat.details) for beat in message.heartbeats] == [(said.command.token, Raw(b"2"))]
    assert len(post.leases) == 0

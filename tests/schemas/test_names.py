"""Names and numbers that every part, and every foreign client, must agree on."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from everstep_schemas.names import (
    Token,
    Topics,
    idempotency_key,
    murmur2,
    run_key,
    shard_of,
    shard_of_key,
    why_bad_name,
    why_bad_queue,
)

# The cases of Kafka's own test of Utils.murmur2, as the signed integers that Java gives.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("data", JAVA)
def test_murmur2_is_java_s(data: bytes) -> None:
    assert murmur2(data) == JAVA[data] & 0xFFFFFFFF


@given(st.binary(max_size=40))
def test_murmur2_is_aiokafka_s(data: bytes) -> None:
    assert murmur2(data) == aiokafka_murmur2(data) & 0xFFFFFFFF


@given(st.text(max_size=40), st.integers(1, 300))
def test_a_shard_is_the_partition_that_the_default_partitioner_chooses(workflow_id: str, shards: int) -> None:
    partitions = list(range(shards))
    assert shard_of(workflow_id, shards) == DefaultPartitioner()(workflow_id.encode(), partitions, partitions)


@pytest.mark.parametrize(("workflow_id", "shard"), [("order-17", 1), ("order-18", 3), ("Bestellung/17 ß 🎁", 6)])
def test_shards_stay_what_they_were(workflow_id: str, shard: int) -> None:
    assert shard_of(workflow_id, 8) == shard


# ---- tokens

tokens = st.builds(
    Token,
    shard=st.integers(0, (1 << 15) - 1),
    run_key=st.integers(0, (1 << 63) - 1),
    seq=st.integers(1, 1 << 40),
    attempt=st.integers(1, 1 << 20),
    nonce=st.text("0123456789abcdef", min_size=1, max_size=16),
)


def test_a_token_reads_like_this() -> None:
    assert str(Token(3, run_key(3, 7), 26, 1, "8c5a1e")) == "3.3000000000007.1a.1.8c5a1e"


@given(tokens)
def test_a_token_is_read_as_it_was_written(token: Token) -> None:
    assert Token.parse(str(token)) == token


@pytest.mark.parametrize("text", ["", "....", "1.2.3.4", "1.2.3.4.n.5", "g.2.3.4.n", "1.2.3.4n", "1.2.x.4.n", "\x00"])
def test_what_is_no_token_is_none(text: str) -> None:
    assert Token.parse(text) is None


@given(st.text(max_size=60) | st.text("0123456789abcdefx._-+ ", max_size=30))
def test_reading_garbage_never_fails(text: str) -> None:
    Token.parse(text)


# ---- what ids, names and queues may be


@pytest.mark.parametrize("name", ["a", "order-17", "Bestellung/17 ß 🎁", " ", "x" * 512, "ß" * 256, "\u2028", '"'])
def test_a_good_name(name: str) -> None:
    assert why_bad_name(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "has 0 bytes"),
        ("x" * 513, "has 513 bytes"),
        ("ß" * 257, "has 514 bytes"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("\x7f", "control character"),
        ("\x85", "control character"),
        ("\ud83c", "surrogate"),
    ],
)
def test_a_bad_name(name: str, why: str) -> None:
    assert why in (why_bad_name(name) or "")


@given(st.text(max_size=600))
def test_a_good_name_fits_an_index_of_the_database(name: str) -> None:
    if why_bad_name(name) is None:
        assert 1 <= len(name.encode()) <= 512
        assert "\x00" not in name


@pytest.mark.parametrize("queue", ["default", "A.b_c-9", "x" * 200])
def test_a_good_queue(queue: str) -> None:
    assert why_bad_queue(queue) is None


@pytest.mark.parametrize("queue", ["", "x" * 201, "a b", "a/b", "ü", "a\n", "a:b", "٣"])
def test_a_bad_queue(queue: str) -> None:
    assert why_bad_queue(queue)


# ---- keys and topics


@given(st.integers(0, (1 << 15) - 1), st.integers(0, (1 << 48) - 1))
def test_a_run_s_key_holds_its_shard_and_fits_bigint(shard: int, number: int) -> None:
    key = run_key(shard, number)
    assert shard_of_key(key) == shard
    assert 0 <= key < 1 << 63


@given(st.integers(0, 100), st.integers(0, (1 << 48) - 2))
def test_keys_of_a_shard_rise(shard: int, number: int) -> None:
    assert run_key(shard, number) < run_key(shard, number + 1) < run_key(shard + 1, 0)


def test_an_idempotency_key_is_one_activity_s() -> None:
    assert idempotency_key("order-17", 1, 2) == "order-17/1/2"


@given(st.lists(st.tuples(st.text("/1a", min_size=1), st.integers(1, 30), st.integers(1, 30)), unique=True))
def test_no_two_activities_share_an_idempotency_key(activities: list[tuple[str, int, int]]) -> None:
    assert len({idempotency_key(*one) for one in activities}) == len(activities)


def test_topics_have_the_prefix() -> None:
    topics = Topics("shop")
    names = (topics.submissions, topics.inbox, topics.control, topics.lifecycle, topics.dlq)
    assert names == ("shop.submissions", "shop.inbox", "shop.control", "shop.lifecycle", "shop.dlq")
    assert topics.activities("pay") == "shop.activities.pay"
    assert topics.worker_group("pay") == "shop.worker.pay"
    assert topics.orchestrator_group == "shop.orchestrator"

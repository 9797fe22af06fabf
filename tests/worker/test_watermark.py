from __future__ import annotations

import itertools

import pytest

from everstep_worker.watermark import Watermark


def test_nothing_is_finished_at_the_start() -> None:
    assert Watermark(7).position == 7


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_it_is_the_lowest_unfinished_offset_in_whatever_order_commands_finish(order: tuple[int, ...]) -> None:
    offsets = [3, 4, 6, 9, 10]  # transactions and compaction leave gaps
    watermark = Watermark(3)
    assert all(watermark.begin(offset) for offset in offsets)
    unfinished = set(offsets)
    for index in order:
        watermark.finish(offsets[index])
        unfinished.remove(offsets[index])
        assert watermark.position == min(unfinished, default=11)


def test_what_began_before_is_not_new() -> None:
    watermark = Watermark(0)
    assert watermark.begin(0)
    assert watermark.begin(1)
    watermark.finish(0)
    assert not watermark.begin(0)
    assert not watermark.begin(1)
    assert watermark.begin(2)
    assert watermark.position == 1


def test_it_forgets_what_is_below() -> None:
    watermark = Watermark(0)
    for offset in range(10_000):
        watermark.begin(offset)
        watermark.finish(offset)
    assert watermark.position == 10_000
    assert not watermark._finished
    assert not watermark._unfinished

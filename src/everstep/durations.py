"""Lengths of time in words: `timeout=seconds(30)`, `days(7)`. All are plain `datetime.timedelta`s."""

from __future__ import annotations

from datetime import timedelta

Duration = timedelta


def seconds(n: float) -> timedelta:
    """`n` seconds; fractions down to a microsecond."""
    return timedelta(seconds=n)


def minutes(n: float) -> timedelta:
    """`n` minutes."""
    return timedelta(minutes=n)


def hours(n: float) -> timedelta:
    """`n` hours."""
    return timedelta(hours=n)


def days(n: float) -> timedelta:
    """`n` times 24 hours; no calendar is asked."""
    return timedelta(days=n)

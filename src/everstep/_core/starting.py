"""How a run comes to be: whether a start makes one, and the event that it begins with.

A run is started by a submission, as a child, or to go on with the work of a run before it. In each case the limits that
the request does not set are those of the workflow's code, if it is here; they are recorded, so that they hold whatever
code comes later.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from everstep._core.attributes import check_size, stored
from everstep._core.model import FLAGS, Successor
from everstep._core.ports import WorkflowCode
from everstep._core.timers import after, instant, micros
from everstep_schemas import events, wire
from everstep_schemas.names import why_bad_name

# A run that starts runs that start runs … is a mistake long before this.
MOST_ANCESTORS = 50

Admission = Literal["create", "replace", "existing", "reject"]


def admission(start: wire.Start, *, exists: bool, is_open: bool) -> Admission:
    """What a start with a new identity does, if the newest run of its id `exists` and `is_open`."""
    if not exists:
        return "create"
    if start.on_duplicate == "return_existing":
        return "existing"
    if is_open:
        return "replace" if start.on_duplicate == "terminate_existing" else "reject"
    return "reject" if start.on_duplicate == "reject" else "create"


class Birth(NamedTuple):
    """What is drawn or known when a run is created: its version, nonce, and the interpreter."""

    version: int
    nonce: str
    python: str
    now: int
    code: WorkflowCode | None


def of_submission(start: wire.Start, source: str, traceparent: str | None, birth: Birth) -> events.Started:
    """The first event of a run that somebody has submitted."""
    return limited(
        events.Started(
            workflow=start.workflow,
            version=birth.version,
            nonce=birth.nonce,
            source=source,
            python=birth.python,
            args=start.args,
            kwargs=start.kwargs,
            flags=FLAGS,
            traceparent=traceparent,
            attributes=start.attributes,
            memo=start.memo,
            start_at=start.start_at,
            timeout_seconds=start.timeout_seconds,
        ),
        birth,
    )


def of_child(start: wire.ChildStart, birth: Birth) -> events.Started:
    """The first event of a run that another run has started. Its identity is the parent's token."""
    return limited(
        events.Started(
            workflow=start.workflow,
            version=birth.version,
            nonce=birth.nonce,
            source=start.parent.token,
            python=birth.python,
            args=start.args,
            kwargs=start.kwargs,
            flags=FLAGS,
            parent=start.parent,
            timeout_seconds=start.timeout_seconds,
        ),
        birth,
    )


def of_successor(successor: Successor, parent: events.Parent | None, birth: Birth) -> events.Started:
    """The first event of a run that goes on with the work of another; whoever waits for that one waits on."""
    inherited = successor.inherited
    return limited(
        events.Started(
            workflow=successor.workflow,
            version=birth.version,
            nonce=birth.nonce,
            source=successor.source,
            python=birth.python,
            args=Raw(successor.args),
            kwargs=UNSET if successor.kwargs is None else Raw(successor.kwargs),
            flags=FLAGS,
            traceparent=successor.traceparent,
            parent=parent,
            attributes=successor.attributes,
            memo=successor.memo,
            start_at=None if successor.start_at is None else instant(successor.start_at),
            timeout_seconds=successor.timeout_seconds,
            expires_at=None if successor.expires_at is None else instant(successor.expires_at),
            attempt=successor.attempt,
            inherited=inherited if inherited != events.Inheritance() else None,
        ),
        birth,
    )


def limited(started: events.Started, birth: Birth) -> events.Started:
    """With the limits that the workflow's code sets, and the instant at which they end."""
    code = birth.code
    seconds = started.timeout_seconds or (None if code is None else code.timeout_seconds)
    expires_at = started.expires_at
    if expires_at is None and seconds is not None:
        begins = birth.now if started.start_at is None else max(birth.now, micros(started.start_at))
        expires_at = instant(after(begins, seconds))
    return msgspec.structs.replace(
        started,
        timeout_seconds=seconds,
        expires_at=expires_at,
        retry=None if code is None else code.retry_policy,
    )


def why_impossible(start: wire.Start) -> str | None:
    """Why what a start says beside its arguments cannot be, in words about the field."""
    if start.timeout_seconds is not None and not 0 < start.timeout_seconds < float("inf"):
        return f"timeout_seconds is {start.timeout_seconds:g}; it is a number above 0"
    if start.start_at is not None and start.start_at.tzinfo is None:
        return "start_at has no time zone: write it as in 2026-01-31T18:00:00Z"
    signal = start.with_signal
    if signal is not None and (problem := why_bad_name(signal.name)):
        return f"with_signal.name {problem}"
    if signal is not None and signal.signal_id is not None and (problem := why_bad_name(signal.signal_id)):
        return f"with_signal.signal_id {problem}"
    return _why_bad_attributes(start.attributes)


def _why_bad_attributes(attributes: dict[str, events.AttributeValue]) -> str | None:
    try:
        for name, value in attributes.items():
            stored(name, value)
        check_size(attributes)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def first_signal(start: wire.Start, source: str) -> wire.Signal | None:
    """The signal that comes with a start, with an identity that is the same at every repetition."""
    signal = start.with_signal
    if signal is None:
        return None
    signal_id = signal.signal_id or f"{source[:400]}/signal"
    return wire.Signal(workflow_id=start.workflow_id, name=signal.name, value=signal.value, signal_id=signal_id)

"""Histories that are kept beside the tests: what a run did then is what it does now, or the difference is shown."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from everstep import _doors, histories
from everstep._core.engine import CannotRun, Engine
from everstep.app import App
from everstep.client import Run
from everstep.histories import Header, HistoryEvent
from everstep.testing._hooks import UPDATE_OPTION, UPDATE_VARIABLE
from everstep.testing._installation import API_URL, MAX_PAYLOAD_BYTES, TOPICS
from everstep.testing._problems import differs
from everstep.testing._transport import MemoryTransport
from everstep.words import Teller

T = TypeVar("T")

# Drawn anew each time: they are numbered instead.
_DRAWN = re.compile(r"[0-9a-f]{32}")
_IDENTITIES = {"source", "signal_id", "update_id", "signal_ids", "update_ids"}
_event_decoder = msgspec.json.Decoder(HistoryEvent)


def assert_history(run: Run[Any], path: str | Path) -> None:
    """Asserts that the run's history so far is the one in a file, which is written if it is missing.

    With `pytest --everstep-update-histories`, or EVERSTEP_UPDATE_HISTORIES=1, it is written anew. Left out is what
    differs each time and decides nothing: tracebacks, the version of Python, identities that were drawn.
    """
    transport = run._transport
    if not isinstance(transport, MemoryTransport):
        raise TypeError("assert_history() takes a run of a WorkflowEnvironment")
    stored = transport.find(run.id)
    header = Header(stored.workflow_id, stored.run)
    lines = tidied(list(histories.events_of(stored.rows)))
    path = Path(path)
    if not path.exists() or os.environ.get(UPDATE_VARIABLE, "") not in ("", "0"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(histories.written(header, lines))
        return
    _, kept = histories.split(path)
    problem = _first_difference([line for _, line in kept], lines)
    if problem is not None:
        raise AssertionError(
            f"run {stored.run} of {stored.workflow_id!r} has another history than {path}. {problem}\n"
            f"If that is meant, write it anew: pytest {UPDATE_OPTION}, or {UPDATE_VARIABLE}=1"
        )


class Replayed(NamedTuple):
    """What replaying a file came to. `argument_differences` counts commands with other arguments than it holds."""

    workflow_id: str
    run: int
    events: int
    argument_differences: int


def replay_file(app: App, path: str | Path, *, id: str | None = None, run: int | None = None) -> Replayed:
    """Replays the history in a file with the code of `app`: does today's code go on with yesterday's runs?

    The file is one of `assert_history`, or what `everstep history ID --json` printed; that does not say the run's `id`
    and number. Raises `ReplayDiffers` for what the code does differently, and for a workflow that the app does not
    have; `NoHistory` if the file holds none.
    """
    history = histories.read(Path(path), id, run)
    return _aside(lambda: _replay(app, history, Path(path)))


def _replay(app: App, history: histories.History, path: Path) -> Replayed:
    _doors.install()
    engine = Engine(app, TOPICS, max_payload_bytes=MAX_PAYLOAD_BYTES, api_url=lambda: API_URL)
    try:
        replay = engine.replay(history.identity)
        for row in history.rows:
            replay.feed(row)
        run = replay.finish()
    except CannotRun as error:
        raise differs(history.identity, error.reason, f" from {path}") from None
    replayed = Replayed(run.identity.workflow_id, run.identity.run, run.events, run.argument_differences)
    run.evict()
    return replayed


def _aside(do: Callable[[], T]) -> T:
    """Call `do` where no task runs: a run is not stepped within one."""
    if asyncio._get_running_loop() is None:
        return do()
    outcome: list[T | BaseException] = []

    def call() -> None:
        try:
            outcome.append(do())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=call, name="everstep-replay")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


# ---- what is compared


def tidied(history: Sequence[HistoryEvent]) -> list[bytes]:
    """The lines of a file, without what differs each time."""
    seen: dict[str, str] = {}
    return [msgspec.json.encode(_tidy(msgspec.json.decode(msgspec.json.encode(one)), seen, "")) for one in history]


def _tidy(value: Any, seen: dict[str, str], name: str) -> Any:
    if isinstance(value, dict):
        if name == "event" and "python" in value:
            value = {**value, "python": "any"}
        is_error = "traceback" in value and "type" in value
        kept = {key: one for key, one in value.items() if not (is_error and key == "traceback")}
        return {key: _tidy(one, seen, key) for key, one in kept.items()}
    if isinstance(value, list):
        return [_tidy(one, seen, name) for one in value]
    if isinstance(value, str) and name in _IDENTITIES:
        return _DRAWN.sub(lambda found: seen.setdefault(found[0], f"id-{len(seen) + 1}"), value)
    return value


def _first_difference(kept: Sequence[bytes], now: Sequence[bytes]) -> str | None:
    told_then, told_now = Teller(), Teller()
    for number, (then, here) in enumerate(zip_longest(kept, now), 1):
        words = _words(told_then, then), _words(told_now, here)
        if then is None or here is None or msgspec.json.decode(then) != msgspec.json.decode(here):
            return "\n".join((f"The first difference is event {number}:", *_both(then, here, words)))
    return None


def _both(then: bytes | None, here: bytes | None, words: tuple[str, str]) -> Iterator[str]:
    for whose, line, text in zip(("the file", "this run"), (then, here), words, strict=True):
        yield f"  {whose}: {text}"
        if words[0] == words[1] and line is not None:
            yield f"      {line.decode()}"


def _words(teller: Teller, line: bytes | None) -> str:
    if line is None:
        return "nothing more"
    try:
        one = _event_decoder.decode(line)
    except msgspec.DecodeError as error:
        return f"no event ({error})"
    return [told.text for told in teller.tell(one.seq, one.at, one.event)][-1]

"""The examples, killed at every commit: before it is written and after, each with the outcome that nothing was killed.

A crash at commit *n* stops the orchestrator there for good: nothing of it is published, acknowledged or remembered. A
new one claims the shards and goes on with what is stored. The workers are this test: they answer every command that is
published, as often as it is.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import pytest
from msgspec import Raw
from tests.engine.kit import replay
from tests.pipeline.kit import TOPICS, Installation

from everstep import App
from everstep._core.engine import Engine
from everstep._error_infos import info_of
from everstep.activity import ActivityInfo, running
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_schemas import events, wire
from everstep_schemas.events import decode_events

MINUTE = 60_000_000
IDS = ("workflow_id", "run", "seq", "attempt", "token")
When = Literal["before", "after"]


@dataclass(frozen=True)
class Story:
    """An example as it is started, and what is said to it: at once, or `after` an event of that kind.

    Time passes at `pace` microseconds a moment.
    """

    module: str
    workflow: str
    args: Sequence[Any]
    said: Sequence[Mapping[str, Any]] = ()
    pace: int = 200_000
    outcome: Any = None
    package: str = "examples"
    start: Mapping[str, Any] = field(default_factory=dict)


PRO = {"name": "pro", "monthly_cents": 900}
STORIES = {
    "approved": Story(
        "approval",
        "approve_expense",
        [{"id": "e", "amount": 42, "approver": "ann", "director": "dee"}],
        [{"kind": "signal", "name": "decision", "value": {"by": "ann"}}],
        outcome="approved by ann, 42 paid out",
    ),
    "nobody moderates": Story(
        "moderation", "moderate", [{"id": "p", "text": "buy"}], pace=360 * MINUTE, outcome="remove"
    ),
    "nightly": Story("nightly", "nightly_import", ["n", 30], outcome="319 rows, 1 files failed"),
    "in batches": Story("nightly", "nightly_in_batches", ["n", 60], outcome=649),
    "transfer": Story("transfer", "pay", [5, "DE"], outcome="settled after 3 looks"),
    "transfer, unknown": Story(
        "transfer", "pay", [5, "??", "PT1H"], pace=60 * MINUTE, outcome="unknown after 2 days, 0:00:00"
    ),
    "trip": Story("trip", "book_trip", [{"traveller": "ann", "city": "Rome"}]),
    "trip, undone": Story(
        "trip", "book_trip", [{"traveller": "ann", "city": "Atlantis"}], outcome="not booked: no hotel above the water"
    ),
    "trip, not undone": Story("trip", "book_trip", [{"traveller": "nobody", "city": "Atlantis"}]),
    "subscription": Story(
        "subscription",
        "subscription",
        [{"customer": "c", "plan": {"name": "basic", "monthly_cents": 500}}, "PT1H"],
        [
            {"kind": "update", "name": "change_plan", "value": PRO, "update_id": "u1"},
            {"kind": "signal", "name": "unsubscribe", "value": "enough", "after": "UpdateCompleted"},
        ],
        pace=1000,
        outcome={"customer": "c", "plan": PRO, "periods": 0, "paid_cents": 0},
    ),
    "etl": Story("etl", "load_all", [9], outcome="160 rows; failed: table-7"),
    "two tables": Story("etl", "load_two", [{"name": "a"}, {"name": "b"}], outcome="28 rows"),
    "quorum": Story("vote", "elect", [["ann", "absent", "bob", "cem"], 3], outcome="3 votes are enough"),
    "no quorum": Story("vote", "elect", [["absent-1", "absent-2", "cem"], 2]),
    "versions": Story("dispatch", "dispatch", ["stolen"], outcome="held back stolen"),
    "counter": Story(
        "counter",
        "counter",
        [0, 2],
        [{"kind": "signal", "name": "add", "value": n} for n in (1, 2, 3, 4, 5)]
        + [{"kind": "signal", "name": "close", "value": None}],
        outcome=15,
    ),
    "transcode": Story("transcode", "publish", [{"path": "a", "frames": 2}], outcome=["a.1080p", "a.720p", "a.97.jpg"]),
    "postponed": Story(
        "postponed",
        "postponed",
        [],
        outcome=["again", 42, 2],
        package="tests.pipeline",
        start={
            "start_at": "2023-11-14T22:13:30Z",
            "timeout_seconds": 3600,
            "with_signal": {"name": "note", "value": "first"},
        },
    ),
}


@dataclass
class Workers:
    """Answer what is published, each publication once, with the real functions."""

    installation: Installation
    app: App
    answered: set[int] = field(default_factory=set)

    async def work(self) -> None:
        for message in list(self.installation.publisher.sent):
            if message.topic.startswith(TOPICS.activities("")) and id(message) not in self.answered:
                self.answered.add(id(message))
                command = wire.command_decoder.decode(message.value)
                self.installation.say(command, await self._answer(command))

    async def _answer(self, command: wire.ActivityCommand) -> wire.Inbox:
        activity = self.app.activities[command.activity]
        ids: dict[str, Any] = {
            name: getattr(command, name) for name in ("workflow_id", "run", "seq", "attempt", "token")
        }
        args, kwargs = activity.decode_args(command.args, command.kwargs)
        info = {name: one for name, one in ids.items() if name != "token"}
        try:
            with running(ActivityInfo(**info, idempotency_key=command.idempotency_key)):
                value = activity.fn(*args, **kwargs)
                value = await value if inspect.isawaitable(value) else value
        except Exception as error:
            return wire.ActivityFailed(**ids, error=info_of(error, activity.raises))
        return wire.ActivityCompleted(**ids, value=Raw(activity.encode_result(value)))


@dataclass
class Crash:
    """Stops the world at one commit."""

    at: int
    when: When
    commits: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, when: When) -> None:
        if when == "before":
            self.commits += 1
        if self.commits == self.at and when == self.when and not self.happened.is_set():
            self.happened.set()
            await asyncio.Event().wait()


async def told(story: Story, crash: Crash | None) -> tuple[Installation, App]:
    """The story from its start to its end, through the crash if there is one."""
    app = importlib.import_module(f"{story.package}.{story.module}").app
    installation = Installation(2)
    if crash is not None:
        installation.tables.around_commit = crash
    installation.submit("start", "r", workflow=story.workflow, args=list(story.args), **story.start)
    to_say = deque(story.said)

    def crashed() -> bool:
        return crash is not None and crash.happened.is_set()

    while True:
        async with installation.running(app):
            workers = Workers(installation, app)
            while not ended(installation) and not crashed():
                await workers.work()
                say(installation, to_say)
                installation.pass_time(story.pace)
                await asyncio.sleep(0.001)
            await workers.work()  # Kafka keeps what was published
            # The last commits, of what the run's end leaves to be told, may be the ones that never come.
            if ended(installation):
                await installation.until(lambda: crashed() or installation.is_settled())
                if not crashed():
                    return installation, app
        installation.tables.around_commit = None
        crash = None


def say(installation: Installation, to_say: deque[Mapping[str, Any]]) -> None:
    """What is to be said next, once what it waits for has happened."""
    happened = {kind for run in installation.runs("r") for kind in installation.kinds(run.run_key)}
    while to_say and to_say[0].get("after", "Started") in happened:
        one = {"workflow_id": "r", **to_say.popleft()}
        one.pop("after", None)
        installation.submit(**one)


def ended(installation: Installation) -> bool:
    run = installation.latest("r")
    return run is not None and run.status not in ("running", "continued")


def outcome(installation: Installation) -> Any:
    run = installation.latest("r")
    assert run is not None
    closing = history(installation, run.run_key)[-1]
    return msgspec.json.decode(closing.value) if isinstance(closing, events.Completed) else closing


def history(installation: Installation, key: int) -> list[events.AnyEvent]:
    return [event for row in installation.tables.rows[key] for event in decode_events(row.data)]


def check_histories(installation: Installation, app: App) -> None:
    """No gap, no event twice, and today's code does what they say."""
    engine = Engine(app, TOPICS, max_payload_bytes=1 << 20)
    for key, rows in installation.tables.rows.items():
        seq = 1
        for row in rows:
            assert row.seq == seq
            seq += len(decode_events(row.data))
        ids = [event.signal_id for event in history(installation, key) if isinstance(event, events.SignalReceived)]
        assert len(ids) == len(set(ids))
        replay(engine, Entry(installation.tables.runs[key]).identity, rows).evict()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", STORIES)
def test_a_story_ends_the_same_whenever_its_orchestrator_dies(name: str, when: When) -> None:
    story = STORIES[name]
    calm, app = asyncio.run(told(story, None))
    check_histories(calm, app)
    expected = outcome(calm)
    if story.outcome is not None:
        assert expected == story.outcome
    at = 1
    while True:
        crash = Crash(at, when)
        survived, app = asyncio.run(told(story, crash))
        check_histories(survived, app)
        assert outcome(survived) == expected, f"crash {when} commit {at}"
        if not crash.happened.is_set():
            break
        at += 1
    assert at > 2

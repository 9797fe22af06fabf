"""The installation in memory does what an orchestrator's pipeline does, submission by submission.

Each scenario is played on both; then the runs, the kinds of their events and everything that was told to everyone must
be the same. Instants, identities that were drawn and who executed activities are not compared.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import msgspec
import pytest
from tests.pipeline import kit

from everstep import App, CallbackError, ChildError, Context, EverstepError, Retry, Signal, Update, days, hours, seconds
from everstep.testing import WorkflowEnvironment
from everstep.testing._transport import MemoryTransport
from everstep_schemas import cloudevents, events
from everstep_schemas.wire import Lifecycle, lifecycle_decoder

app = App("conformance", retry=Retry(2))
go = Signal[Any]("go")
add = Update[int, int]("add")


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.workflow
async def waits(ctx: Context) -> Any:
    ctx.set_status("waiting")
    return await ctx.wait_for_signal(go)


@app.workflow
async def works(ctx: Context, value: Any) -> Any:
    return await echo(value)


@app.workflow(timeout=hours(1))
async def sleeps(ctx: Context, length: float) -> str:
    await ctx.sleep(seconds(length))
    return "awake"


@app.workflow
async def parent(ctx: Context, id: str, on_parent_close: Any = "terminate") -> str:
    ctx.child(waits, id=id, on_parent_close=on_parent_close)
    await ctx.wait_for_signal(go)
    return "closed"


@app.workflow
async def awaits(ctx: Context, name: str, id: str | None = None) -> str:
    try:
        return f"{await ctx.child(name, id=id)}"
    except ChildError as error:
        return f"{error.cause}"


@app.workflow
async def nests(ctx: Context, id: int) -> str:
    try:
        return str(await ctx.child("nests", id + 1, id=f"nested-{id + 1}"))
    except ChildError as error:
        return type(error.cause).__name__


@app.workflow
async def sends(ctx: Context, to: str) -> str:
    said = []
    for ask in (ctx.external(to).signal(go, 1, signal_id="s"), ctx.external(to).cancel("why not")):
        try:
            await ask
        except EverstepError as error:
            said.append(str(error))
    return "; ".join(said)


@app.workflow
async def continues(ctx: Context, left: int) -> Any:
    if left:
        ctx.continue_as_new(continues, left - 1)
    return await ctx.wait_for_signal(go)


@app.workflow(retry=Retry(2))
async def fails(ctx: Context) -> None:
    raise ValueError("no")


@app.workflow
async def sums(ctx: Context) -> int:
    total = 0

    def positive(value: int) -> None:
        if value < 0:
            raise ValueError("below 0")

    async def handle(value: int) -> int:
        nonlocal total
        total += value
        return total

    ctx.on_update(add, handle, validate=positive)
    await ctx.wait_for_signal(go)
    return total


@app.workflow
async def asks(ctx: Context) -> str:
    try:
        return f"{await ctx.callback(int, timeout=days(1), heartbeat_timeout=hours(1))}"
    except CallbackError as error:
        return str(error)


STEPS = 4
Told = tuple[str, dict[str, Any]]


class Side(Protocol):
    """One of the two that are compared."""

    async def submit(self, kind: str, id: str, **fields: Any) -> None:
        """A submission, and everything that it causes without time passing."""
        ...

    async def let_pass(self, length: timedelta) -> None: ...
    def token(self, id: str) -> str:
        """Of the callback of the newest run."""
        ...

    def runs(self, id: str) -> list[tuple[str, str, list[str]]]:
        """Every run of an id: its workflow, its status, and the kinds of its events."""
        ...

    def told(self) -> list[Told]: ...


def body_of(kind: str, id: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **({"token": id} if "callback" in kind else {"workflow_id": id}), **fields}


class Orchestrator:
    """The pipeline of an orchestrator on an installation in memory; the test is its worker."""

    def __init__(self) -> None:
        self.installation = kit.Installation()
        self._answered = 0

    async def submit(self, kind: str, id: str, **fields: Any) -> None:
        self.installation.write(body_of(kind, id, **fields))
        await self._settle()

    async def _settle(self) -> None:
        await self.installation.settled()
        while len(commands := self.installation.commands()) > self._answered:
            for command in commands[self._answered :]:
                self.installation.answer(command, msgspec.json.decode(command.args)[0])
            self._answered = len(commands)
            await self.installation.settled()

    async def let_pass(self, length: timedelta) -> None:
        """In small steps, each of which lets due timers fire."""
        for _ in range(STEPS):
            before = self.installation.turns
            self.installation.pass_time(length // timedelta(microseconds=STEPS))
            await self.installation.until(partial(self._has_turned, before))
            await self._settle()

    def _has_turned(self, before: int) -> bool:
        return self.installation.turns > before + 3

    def token(self, id: str) -> str:
        run = self.installation.runs(id)[-1]
        rows = self.installation.tables.rows[run.run_key]
        return token_in([event for row in rows for event in events.decode_events(row.data)])

    def runs(self, id: str) -> list[tuple[str, str, list[str]]]:
        found = self.installation.runs(id)
        return [(run.workflow, run.status, self.installation.kinds(run.run_key)) for run in found]

    def told(self) -> list[Told]:
        messages = self.installation.publisher.sent
        facts = [message for message in messages if message.topic == kit.TOPICS.lifecycle]
        return [
            plain(cloudevents.header(message.headers, "ce_type") or "", lifecycle_decoder.decode(message.value))
            for message in facts
        ]


class Environment:
    """What tests of workflows use."""

    def __init__(self, env: WorkflowEnvironment, told: list[Told]) -> None:
        self._env = env
        self._told = told

    async def submit(self, kind: str, id: str, **fields: Any) -> None:
        opened = self._env._open
        data = json.dumps(body_of(kind, id, **fields)).encode()
        await opened.post.ask(lambda: opened.installation.submit(data))
        await self._env.settle()

    async def let_pass(self, length: timedelta) -> None:
        await self._env.skip(length)

    def token(self, id: str) -> str:
        return token_in([one.event for one in self._env.history(id)])

    def runs(self, id: str) -> list[tuple[str, str, list[str]]]:
        found = self._env._open.installation.by_id.get(id, [])
        return [(run.workflow, run.status, [type(event).__name__ for _, _, event in run.history()]) for run in found]

    def told(self) -> list[Told]:
        return self._told


def token_in(history: list[events.AnyEvent]) -> str:
    return next(event.token for event in history if isinstance(event, events.CallbackCreated))


def plain(type: str, fact: Lifecycle) -> Told:
    """A fact without what differs each time."""
    fields = msgspec.json.decode(msgspec.json.encode(fact))
    for name in ("at", "retry_at"):
        fields.pop(name, None)
    (fields.get("error") or {}).pop("traceback", None)
    if "parent" in fields:
        fields["parent"].pop("token")
    if str(fields.get("submission_id", "")).count(".") == 4:  # a token: the identity of a child's start
        fields["submission_id"] = "token"
    return type, fields


@asynccontextmanager
async def orchestrator(told: list[Told]) -> AsyncIterator[Side]:
    side = Orchestrator()
    async with side.installation.running(app):
        yield side


@asynccontextmanager
async def environment(told: list[Told]) -> AsyncIterator[Side]:
    async with WorkflowEnvironment(app) as env:
        yield Environment(env, told)


Scenario = Callable[[Side], Awaitable[None]]


async def starts_of_one_id(side: Side) -> None:
    for name, more in {
        "a": {},
        "b": {},
        "c": {"on_duplicate": "return_existing"},
        "a-again": {"submission_id": "a"},
        "d": {"on_duplicate": "allow_closed"},
        "e": {"on_duplicate": "terminate_existing"},
    }.items():
        await side.submit("start", "w", **{"workflow": "waits", "submission_id": name, **more})
    await side.submit("signal", "w", name="go", value=1, signal_id="s")
    for name, more in {
        "f": {},
        "g": {"on_duplicate": "return_existing"},
        "a": {},
        "h": {"on_duplicate": "allow_closed"},
    }.items():
        await side.submit("start", "w", workflow="waits", submission_id=name, **more)


async def what_cannot_be_started(side: Side) -> None:
    for fields in (
        {"args": {"no": "array"}},
        {"kwargs": [1]},
        {"version": 0},
        {"timeout_seconds": -1},
        {"with_signal": {"name": ""}},
        {"start_at": "2030-01-01T00:00:00"},
        {"attributes": {"": "x"}},
        {"args": ["x" * (1 << 20)]},
    ):
        await side.submit("start", "w", **{"workflow": "waits", "submission_id": f"{list(fields)}"[:100], **fields})
    await side.submit("signal", "w", name="", value=1, signal_id="x")
    await side.submit("signal", "w", name="go", value="x" * (1 << 20), signal_id="y")


async def signals(side: Side) -> None:
    await side.submit("signal", "early", name="go", value="early", signal_id="1")
    await side.submit("start", "early", workflow="waits", submission_id="a")
    await side.submit("signal", "late", name="go", value="late", signal_id="2")
    await side.let_pass(timedelta(seconds=80))
    await side.submit("start", "late", workflow="waits", submission_id="b")
    for _ in range(2):
        await side.submit("signal", "late", name="go", value="again", signal_id="3")
    await side.submit("signal", "late", name="go", value="too late", signal_id="4")
    await side.submit("start", "with", workflow="waits", submission_id="c", with_signal={"name": "go", "value": 1})
    await side.submit("start", "with", workflow="waits", submission_id="c", with_signal={"name": "go", "value": 1})


async def endings(side: Side) -> None:
    for id in ("cancelled", "terminated"):
        await side.submit("start", id, workflow="waits", submission_id=id)
    await side.submit("cancel", "cancelled", reason="enough")
    await side.submit("terminate", "terminated", reason="at once")
    await side.submit("cancel", "cancelled")
    await side.submit("cancel", "nobody")
    await side.submit("start", "failed", workflow="fails", submission_id="f")
    await side.let_pass(timedelta(seconds=10))


async def times(side: Side) -> None:
    await side.submit("start", "s", workflow="sleeps", args=[60], submission_id="s")
    await side.submit("start", "t", workflow="sleeps", args=[7200], submission_id="t")
    await side.submit("start", "u", workflow="sleeps", args=[7200], submission_id="u", timeout_seconds=100)
    await side.let_pass(timedelta(hours=2))


async def activities(side: Side) -> None:
    for n in range(3):
        await side.submit("start", f"w{n}", workflow="works", args=[{"n": n}], submission_id=f"{n}")


async def children(side: Side) -> None:
    await side.submit("start", "taken", workflow="works", args=[1], submission_id="t")
    for how in ("terminate", "cancel", "abandon"):
        await side.submit("start", f"p-{how}", workflow="parent", args=[f"c-{how}", how], submission_id=how)
        await side.submit("signal", f"p-{how}", name="go", signal_id=how)
    await side.submit("start", "p-taken", workflow="awaits", args=["waits", "taken"], submission_id="x")
    await side.submit("start", "p-ends", workflow="awaits", args=["waits", "c-ends"], submission_id="y")
    await side.submit("terminate", "c-ends", reason="by hand")
    await side.submit("start", "p-goes-on", workflow="awaits", args=["waits", "c-goes-on"], submission_id="z")
    await side.submit("signal", "c-goes-on", name="go", value=7, signal_id="7")
    await side.submit("start", "nested-0", workflow="nests", args=[0], submission_id="n")


async def other_runs(side: Side) -> None:
    await side.submit("start", "target", workflow="waits", submission_id="a")
    await side.submit("start", "s1", workflow="sends", args=["target"], submission_id="b")
    await side.submit("start", "s2", workflow="sends", args=["nobody"], submission_id="c")


async def going_on_as_new(side: Side) -> None:
    await side.submit("start", "c", workflow="continues", args=[3], submission_id="a")
    await side.submit("signal", "c", name="go", value="end", signal_id="s")
    await side.submit("start", "c", workflow="continues", args=[0], submission_id="a")


async def updates(side: Side) -> None:
    await side.submit("start", "s", workflow="sums", submission_id="a")
    for update_id, value in (("1", 3), ("1", 3), ("2", -1), ("3", "x"), ("4", 4)):
        await side.submit("update", "s", name="add", value=value, update_id=update_id)
    await side.submit("update", "s", name="subtract", value=1, update_id="5")
    await side.submit("update", "nobody", name="add", value=1, update_id="6")
    await side.submit("signal", "s", name="go", signal_id="end")
    await side.submit("update", "s", name="add", value=1, update_id="7")


async def callbacks(side: Side) -> None:
    for id in ("a", "b", "c", "d"):
        await side.submit("start", id, workflow="asks", submission_id=id)
    await side.submit("complete_callback", side.token("a"), value="x", submission_id="1")
    await side.submit("complete_callback", side.token("a"), value=1, submission_id="2")
    await side.submit("complete_callback", side.token("a"), value=2, submission_id="3")
    await side.submit("fail_callback", side.token("b"), error={"message": "no", "type": "Busy"}, submission_id="4")
    await side.let_pass(timedelta(minutes=50))
    await side.submit("heartbeat_callback", side.token("c"), details=1)
    await side.let_pass(timedelta(minutes=50))


SCENARIOS = [
    starts_of_one_id,
    what_cannot_be_started,
    signals,
    endings,
    times,
    activities,
    children,
    other_runs,
    going_on_as_new,
    updates,
    callbacks,
]
IDS = [
    *("w", "w0", "w1", "w2", "early", "late", "with", "cancelled", "terminated", "failed", "s", "t", "u", "taken"),
    *(f"{which}-{how}" for which in "pc" for how in ("terminate", "cancel", "abandon", "ends", "goes-on")),
    *("p-taken", "nested-0", "nested-7", "target", "s1", "s2", "a", "b", "c", "d"),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_environment_does_what_an_orchestrator_does(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Told] = []
    heard = MemoryTransport.heard

    def note(transport: MemoryTransport, type: str, fact: Lifecycle) -> None:
        told.append(plain(type, fact))
        heard(transport, type, fact)

    monkeypatch.setattr(MemoryTransport, "heard", note)
    seen = []
    for side_of in (orchestrator, environment):
        async with side_of(told) as side:
            await scenario(side)
            runs = {id: found for id in IDS if (found := side.runs(id))}
            seen.append((runs, {id: [fact for fact in side.told() if fact[1]["workflow_id"] == id] for id in IDS}))
    real, ours = seen
    assert ours[0] == real[0]
    assert ours[1] == real[1]
    assert any(real[1].values())

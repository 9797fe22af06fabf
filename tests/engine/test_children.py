"""Children and requests to other runs: what is asked of them, what comes back, what becomes of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.engine.kit import Case, raw, replay

from everstep import App, ChildError, Context, Signal, days, seconds
from everstep._core.engine import CannotRun, Engine
from everstep.errors import Rejected, RemoteError, RunAlreadyExists, RunCancelled, RunNotFound, RunTerminated
from everstep_schemas import cloudevents, events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import OnParentClose
from everstep_schemas.names import Token, Topics

app = App("children")
note = Signal[str]("note")


@dataclass
class Table:
    name: str


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def load(ctx: Context, table: Table, full: bool = False) -> int:
    return await work(1)


@app.workflow
async def loading(ctx: Context, name: str) -> str:
    try:
        return f"{await load(Table(name))} rows"
    except ChildError as error:
        return f"{error.workflow_id}: {error}: {type(error.cause).__name__}"


TOKEN = "3.3000000000007.2.0.8c5a1e"


def test_a_call_is_an_event_and_a_request_to_the_inbox_of_the_childs_id() -> None:
    case = Case(app, loading, "a")
    assert case.last == [
        events.ChildStarted(workflow="load", workflow_id="order-17/1/2", args=Raw(b'[{"name":"a"}]')),
    ]
    message = case.messages[-1]
    assert (message.topic, message.partition, message.key) == ("everstep.inbox", None, b"order-17/1/2")
    assert cloudevents.header(message.headers, "ce_type") == "everstep.child.start"
    assert cloudevents.header(message.headers, "ce_id") == TOKEN == case.token(2, 0)
    start = msgspec.json.decode(message.value, type=wire.ChildStart)
    assert start == wire.ChildStart(
        workflow_id="order-17/1/2",
        parent=events.Parent(workflow_id="order-17", run=1, seq=2, token=TOKEN),
        workflow="load",
        args=Raw(b'[{"name":"a"}]'),
    )


def test_its_result_is_the_handles() -> None:
    case = Case(app, loading, "a")
    case.child_completed(2, 7, child_run=3)
    assert case.history[-2] == events.ChildCompleted(ref=2, value=raw(7), run=3)
    assert case.result == "7 rows"


def test_a_result_that_does_not_fit_is_an_error_of_the_parent() -> None:
    case = Case(app, loading, "a")
    case.child_completed(2, "many")
    assert case.error.type == "everstep.errors.PayloadError"
    assert case.error.message.startswith("the result of child run 'order-17/1/2' does not fit: Expected `int`")


BOOM = ErrorInfo(type="shop.Boom", message="broke")
TAKEN = ErrorInfo(type="RunAlreadyExists", message="run 4 of 'x' exists", retryable=False)


@pytest.mark.parametrize(
    ("status", "more", "words"),
    [
        ("failed", {"error": BOOM}, "failed: shop.Boom: broke: RemoteError"),
        ("cancelled", {"reason": "why not"}, "was cancelled: why not: RunCancelled"),
        ("terminated", {}, "was terminated: RunTerminated"),
        ("timed_out", {}, "was timed out: RunTimedOut"),
        ("rejected", {"error": TAKEN}, "could not be started: run 4 of 'x' exists: RunAlreadyExists"),
        ("rejected", {"error": BOOM}, "could not be started: shop.Boom: broke: RemoteError"),
        ("failed", {}, "was failed: RunError"),
    ],
)
def test_each_way_in_which_it_does_not_succeed_is_a_child_error(
    status: events.EndedStatus, more: dict[str, Any], words: str
) -> None:
    case = Case(app, loading, "a")
    case.child_failed(2, status, **more)
    assert case.result.startswith("order-17/1/2: child run 'order-17/1/2'")
    assert case.result.endswith(words)


def test_an_answer_counts_once_and_with_the_parents_token_only() -> None:
    case = Case(app, loading, "a")
    assert case.child_completed(3, 1) is None, "no child has that number"
    forged = wire.ChildCompleted(workflow_id="order-17", run=1, seq=2, token=TOKEN.replace("8c5a1e", "000000"))
    assert case.send(forged) is None, "the token belongs to another run"
    attempt = wire.ChildCompleted(workflow_id="order-17", run=1, seq=2, token=case.token(2, 1))
    assert case.send(attempt) is None, "the token is an attempt's"
    assert case.send(case.completion(2)) is None, "a child is no activity"
    assert case.answered(2) is None, "a child is no request"
    assert case.child_completed(2, 1) is not None
    assert case.child_completed(2, 2) is None
    assert case.child_failed(2, "failed") is None
    assert case.result == "1 rows"


def test_options_go_along_and_ids_can_be_chosen() -> None:
    @app.workflow
    async def choosing(ctx: Context) -> list[str]:
        one = load.options(id="load-a", version=3, timeout=seconds(9), on_parent_close="cancel")(Table("a"), full=True)
        two = ctx.child(load, Table("b"), id="load-b", on_parent_close="abandon")
        three = ctx.child("elsewhere", Table("c"), 5, returns=int)
        four = ctx.child(load.options(on_parent_close="abandon"), Table("d"))
        await asyncio.gather(one, two, three, four)
        return [one.id, two.id, three.id, four.id]

    case = Case(app, choosing)
    assert case.last == [
        events.ChildStarted(
            workflow="load",
            workflow_id="load-a",
            args=Raw(b'[{"name":"a"},true]'),
            version=3,
            timeout_seconds=9.0,
            on_parent_close="cancel",
        ),
        events.ChildStarted(
            workflow="load", workflow_id="load-b", args=Raw(b'[{"name":"b"}]'), on_parent_close="abandon"
        ),
        events.ChildStarted(workflow="elsewhere", workflow_id="order-17/1/4", args=Raw(b'[{"name":"c"},5]')),
        events.ChildStarted(
            workflow="load", workflow_id="order-17/1/5", args=Raw(b'[{"name":"d"}]'), on_parent_close="abandon"
        ),
    ]
    for seq in range(2, 6):
        case.child_completed(seq, 1)
    assert case.result == ["load-a", "load-b", "order-17/1/4", "order-17/1/5"]


def test_bad_options_are_found_at_the_call() -> None:
    @app.workflow
    async def wrong(ctx: Context) -> str:
        with pytest.raises(Exception, match="control character"):
            load.options(id="\n")
        with pytest.raises(Exception, match="on_parent_close"):
            ctx.child("x", on_parent_close="whatever")  # type: ignore[call-overload]  # the mistake that is found
        with pytest.raises(Exception, match="name"):
            ctx.child("")
        with pytest.raises(TypeError, match=r"ctx\.child needs a workflow, not <built-in"):
            ctx.child(len, "x")  # type: ignore[arg-type]  # the mistake that is found
        with pytest.raises(Exception, match="some time"):
            load.options(timeout=seconds(0))
        with pytest.raises(TypeError, match="missing"):
            load()  # type: ignore[call-arg]  # the mistake that is found
        with pytest.raises(Exception, match="EVERSTEP_MAX_PAYLOAD_BYTES"):
            load(Table("x" * 500))
        return "found"

    case = Case(app, wrong, limit=300)
    assert case.result == "found"
    assert len(case.history) == 2


def test_an_id_that_would_be_too_long_is_shortened_to_one_that_is_as_unique() -> None:
    case = Case(app, loading, "a", check=False)
    children = case.run._program.scope.children
    children._identity = msgspec.structs.replace(case.identity, workflow_id="ü" * 250)
    assert len(children._derived_id(7).encode()) <= 512
    assert children._derived_id(7).endswith("/1/7")
    children._identity = msgspec.structs.replace(case.identity, workflow_id="ü" * 249 + "u")
    assert children._derived_id(7) == "ü" * 249 + "u/1/7"


def test_a_handle_that_is_cancelled_asks_the_child_to_end_and_waits_no_more() -> None:
    @app.workflow
    async def impatient(ctx: Context) -> str:
        try:
            async with asyncio.timeout(5):
                await load(Table("a"))
        except TimeoutError:
            return "too slow"
        return "?"

    case = Case(app, impatient)
    case.wake()
    assert case.last[0] == events.ChildCancelled(ref=3, workflow_id="order-17/1/3", how="cancel")
    token = case.token(3, 0)
    assert case.sent("everstep.child.end") == [
        {
            "kind": "child_end",
            "workflow_id": "order-17/1/3",
            "token": token,
            "how": "cancel",
            "reason": "its parent no longer waits for it",
        }
    ]
    (message,) = [one for one in case.last_activation.messages if one.topic == "everstep.inbox"]
    assert (message.key, cloudevents.header(message.headers, "ce_id")) == (b"order-17/1/3", f"{token}/cancel")
    assert case.child_completed(3, 1) is None
    assert case.result == "too slow"


CLOSING: list[tuple[OnParentClose, list[str]]] = [
    ("terminate", ["terminate"]),
    ("cancel", ["cancel"]),
    ("abandon", []),
]


@pytest.mark.parametrize(("how", "asked"), CLOSING)
@pytest.mark.parametrize("end", ["return", "raise", "cancel", "terminate", "continue"])
def test_what_becomes_of_a_child_when_its_parent_closes(how: OnParentClose, asked: list[str], end: str) -> None:
    @app.workflow(name=f"closing {how} {end}")
    async def closing(ctx: Context, way: str) -> None:
        ctx.child(load, Table("a"), on_parent_close=how)
        await work(1)
        if way == "raise":
            raise ValueError
        if way == "continue":
            ctx.continue_as_new(closing, way)

    case = Case(app, closing, end)
    ends = {"cancel": case.cancel, "terminate": case.terminate}
    ends.get(end, lambda: case.complete(3, 1))()
    assert events.ChildCancelled(ref=2, workflow_id="order-17/1/2", how=how) in case.last
    assert [one["how"] for one in case.sent("everstep.child.end")] == asked


def test_a_grandchilds_ancestors_are_counted_and_the_end_is_told_to_the_parents_partition() -> None:
    parent = events.Parent(workflow_id="root", run=2, seq=9, token=str(Token(5, 77, 9, 0, "abc")), depth=4)
    case = Case(app, loading, "a", parent=parent)
    assert msgspec.json.decode(case.messages[-1].value, type=wire.ChildStart).parent.depth == 5
    assert case.sent("everstep.run.started")[0]["parent"]["workflow_id"] == "root"
    case.child_completed(2, 7)
    message = case.messages[-1]
    assert (message.topic, message.partition, message.key) == ("everstep.inbox", 5, b"root")
    assert msgspec.json.decode(message.value, type=wire.ChildCompleted) == wire.ChildCompleted(
        workflow_id="root", run=2, seq=9, token=parent.token, value=raw("7 rows"), child_run=1
    )


@pytest.mark.parametrize(
    ("end", "status"),
    [("cancel", "cancelled"), ("terminate", "terminated"), ("time", "timed_out"), ("fail", "failed")],
)
def test_each_end_of_a_child_is_told_to_its_parent(end: str, status: str) -> None:
    @app.workflow(name=f"ending by {end}", timeout=days(1))
    async def child(ctx: Context) -> int:
        return await work(1)

    parent = events.Parent(workflow_id="root", run=2, seq=9, token=str(Token(5, 77, 9, 0, "abc")))
    case = Case(app, child, parent=parent)
    match end:
        case "cancel":
            case.cancel("why not")
        case "terminate":
            case.terminate("why not")
        case "time":
            case.wake()
        case _:
            case.fail(2, "Boom", retryable=False)
    (told,) = case.sent("everstep.child.failed")
    assert (told["status"], told["token"], told["child_run"]) == (status, parent.token, 1)
    assert told.get("reason") == ("why not" if end in ("cancel", "terminate") else None)


def test_a_run_that_goes_on_as_a_new_one_tells_its_parent_nothing_until_that_ends() -> None:
    @app.workflow
    async def relay(ctx: Context, n: int) -> int:
        if n:
            ctx.continue_as_new(relay, n - 1)
        return await work(1)

    parent = events.Parent(workflow_id="root", run=2, seq=9, token=str(Token(5, 77, 9, 0, "abc")))
    case = Case(app, relay, 1, parent=parent)
    assert case.run.closed == "continued"
    assert [one.topic for one in case.messages] == ["everstep.lifecycle"] * 2
    following = case.next_run()
    following.complete(2, 5)
    (told,) = following.sent("everstep.child.completed")
    assert (told["value"], told["child_run"], told["token"]) == (5, 2, parent.token)


def changed(workflow: Any) -> Engine:
    other = App("changed")
    other.workflow(name="loading")(workflow)
    return Engine(other, Topics(), max_payload_bytes=1 << 20)


def test_a_child_is_compared_by_workflow_and_id_and_its_arguments_may_differ() -> None:
    case = Case(app, loading, "a")

    async def other_id(ctx: Context, name: str) -> str:
        return str(await ctx.child("load", Table(name), id="mine"))

    async def other_workflow(ctx: Context, name: str) -> str:
        return str(await ctx.child("unload", Table(name)))

    async def other_arguments(ctx: Context, name: str) -> str:
        return str(await ctx.child("load", Table(name), True, on_parent_close="abandon"))

    for workflow, got in ((other_id, "a child run 'mine'"), (other_workflow, "of workflow 'unload'")):
        with pytest.raises(CannotRun) as caught:
            replay(changed(workflow), case.identity, case.rows)
        assert caught.value.reason.expected == "a child run 'order-17/1/2' of workflow 'load'"
        assert got in str(caught.value.reason.got)
    again = replay(changed(other_arguments), case.identity, case.rows)
    assert again.argument_differences == 1
    assert again._program.scope.children._pending[2].started == case.last[0], "what was recorded holds"


# ---- other runs


@app.workflow
async def asking(ctx: Context, other: str) -> list[str]:
    said: list[str] = []
    for request in (
        ctx.external(other).signal(note, "hello"),
        ctx.external(other).signal("plain", {"n": 1}, signal_id="mine"),
        ctx.external(other).cancel("enough"),
    ):
        try:
            await request
            said.append("reached")
        except (RunNotFound, Rejected) as error:
            said.append(f"{type(error).__name__} {error}")
    return said


def test_requests_to_other_runs_are_forwarded_submissions_that_want_an_answer() -> None:
    case = Case(app, asking, "other")
    assert case.last == [
        events.SignalSent(workflow_id="other", name="note", value=raw("hello"), signal_id=""),
        events.SignalSent(workflow_id="other", name="plain", value=raw({"n": 1}), signal_id="mine"),
        events.CancelSent(workflow_id="other", reason="enough"),
    ]
    sent = [
        msgspec.json.decode(one.value, type=wire.Forwarded) for one in case.messages if one.topic == "everstep.inbox"
    ]
    assert [one.source for one in sent] == [case.token(2, 0), "mine", case.token(4, 0)]
    assert [one.reply_to and one.reply_to.seq for one in sent] == [2, 3, 4]
    assert [msgspec.json.decode(one.submission, type=wire.AnySubmission) for one in sent] == [
        wire.Signal(workflow_id="other", name="note", value=raw("hello"), signal_id=case.token(2, 0)),
        wire.Signal(workflow_id="other", name="plain", value=raw({"n": 1}), signal_id="mine"),
        wire.Cancel(workflow_id="other", reason="enough"),
    ]
    case.answered(3, ErrorInfo(type="RunNotFound", message="no run has the id 'other'"))
    case.answered(2)
    assert case.answered(2) is None
    case.answered(4, ErrorInfo(type="Rejected", message="it has ended"))
    assert case.result == ["reached", "RunNotFound no run has the id 'other'", "Rejected it has ended"]


def test_a_request_nobody_waits_for_is_sent_all_the_same() -> None:
    @app.workflow
    async def telling(ctx: Context) -> None:
        ctx.external("other").signal(note, "bye")
        abandoned = ctx.external("other").cancel()
        assert abandoned.cancel()
        assert not abandoned.cancel()

    case = Case(app, telling)
    assert case.kinds == ["SignalSent", "CancelSent", "WaitCancelled", "Completed"]
    assert len([one for one in case.messages if one.topic == "everstep.inbox"]) == 2
    assert case.answered(2) is None


def test_a_child_can_be_signalled_through_its_handle() -> None:
    @app.workflow
    async def telling_child(ctx: Context) -> int:
        child = load(Table("a"))
        await child.signal(note, "be quick")
        return await child

    case = Case(app, telling_child)
    assert case.last[1] == events.SignalSent(
        workflow_id="order-17/1/2", name="note", value=raw("be quick"), signal_id=""
    )
    case.answered(3)
    case.child_completed(2, 4)
    assert case.result == 4


def test_bad_requests_are_found_at_the_call() -> None:
    @app.workflow
    async def wrong_requests(ctx: Context) -> str:
        other: Any = ctx.external("other")
        for bad, words in (
            (lambda: ctx.external("\0").cancel(), "workflow id"),
            (lambda: ctx.external(5).cancel(), "workflow id '5' is no text"),  # type: ignore[arg-type]
            (lambda: other.cancel("\ud800"), "surrogate"),
            (lambda: other.cancel("x" * 5000), "5000 bytes"),
            (lambda: other.cancel(None), "not text"),
            (lambda: other.signal("", 1), "signal"),
            (lambda: other.signal("x", 1, signal_id="\n"), "signal_id"),
            (lambda: other.signal(5, 1), "is no text"),
            (lambda: other.signal(note, 5), f"the value of signal {note.name!r} does not fit: Expected `str`"),
            (lambda: other.signal("x", "y" * 500), "EVERSTEP_MAX_PAYLOAD_BYTES"),
        ):
            with pytest.raises(Exception, match=words):
                bad()
        return "found"

    case = Case(app, wrong_requests, limit=300)
    assert case.result == "found"
    assert len(case.history) == 2


def test_a_handle_of_one_run_is_of_no_use_to_the_code_of_another() -> None:
    kept: list[Any] = []

    @app.workflow
    async def keeps(ctx: Context) -> None:
        kept[:] = [load(Table("a")), ctx.external("other"), work(1), ctx.sleep(days(1)), ctx.callback(int)]
        kept.append(ctx.wait_for_signal(note))
        await work(2)

    @app.workflow
    async def borrows(ctx: Context) -> list[str]:
        child, external, *others = kept
        tries = [lambda: child.signal(note, "x"), lambda: external.cancel(), child.cancel]
        said: list[str] = []
        for attempt in [*tries, *(one.cancel for one in others)]:
            try:
                attempt()
                said.append("worked")
            except Exception as error:
                said.append(type(error).__name__)
        return said

    case = Case(app, keeps, check=False)
    before = case.run.next_seq
    assert set(Case(app, borrows, check=False).result) == {"NondeterminismError"}
    assert case.run.next_seq == before
    case.complete(7, 1)
    assert case.run.closed == "completed"
    assert case.replayed().closed == "completed"


def test_causes_can_be_told_apart() -> None:
    @app.workflow
    async def telling_apart(ctx: Context, n: int) -> str:
        try:
            await load(Table("a"))
        except ChildError as error:
            match error.cause:
                case RunAlreadyExists(workflow_id=id):
                    return f"taken {id}"
                case RunCancelled(run=run) | RunTerminated(run=run):
                    return f"ended {run}"
                case RemoteError(type=type):
                    return type
        return "?"

    taken, cancelled, failed = (Case(app, telling_apart, n) for n in range(3))
    taken.child_failed(2, "rejected", error=TAKEN)
    cancelled.child_failed(2, "cancelled", child_run=6)
    failed.child_failed(2, "failed", error=BOOM)
    assert [taken.result, cancelled.result, failed.result] == ["taken order-17/1/2", "ended 6", "shop.Boom"]

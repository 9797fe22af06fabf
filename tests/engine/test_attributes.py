"""Attributes, status and milestones: what a run says of itself, kept as history holds it."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from tests.engine.kit import Case, begin, replay

from everstep import App, Context
from everstep._core.engine import CannotRun, Engine
from everstep._core.starting import why_impossible
from everstep_schemas import events, wire
from everstep_schemas.names import Topics

app = App("attributes")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


async def saying(ctx: Context) -> dict[str, Any]:
    ctx.attributes["customer"] = "Ada"
    ctx.attributes.update(amount=5, rate=0.5, vip=True)
    await work(1)
    ctx.attributes["tags"] = ["a", "b"]
    ctx.attributes["due"] = datetime(2026, 1, 31, 18, tzinfo=timezone(timedelta(hours=2)))
    del ctx.attributes["rate"]
    return dict(ctx.attributes)


def test_each_change_is_an_event_and_the_whole_is_shown() -> None:
    case = begin(saying)
    assert case.last[:4] == [
        events.AttributesSet(values={"customer": "Ada"}),
        events.AttributesSet(values={"amount": 5}),
        events.AttributesSet(values={"rate": 0.5}),
        events.AttributesSet(values={"vip": True}),
    ]
    assert case.last_activation.attributes_changed
    assert case.run.attributes == b'{"customer":"Ada","amount":5,"rate":0.5,"vip":true}'
    case.complete(6, 1)
    assert case.last[2] == events.AttributesSet(values={"rate": None})
    assert case.result == {
        "customer": "Ada",
        "amount": 5,
        "vip": True,
        "tags": ["a", "b"],
        "due": "2026-01-31T16:00:00Z",
    }
    assert [one.topic for one in case.messages if b"attributes" in one.value] == []


def test_what_does_not_change_records_nothing() -> None:
    async def repeating(ctx: Context) -> None:
        ctx.attributes["n"] = 1
        ctx.attributes["n"] = 1
        ctx.attributes["n"] = True
        ctx.attributes["n"] = 1.0
        ctx.attributes["tags"] = ["a"]
        ctx.attributes["tags"] = ("a",)
        await work(1)
        ctx.attributes["tags"] = ["a"]

    case = begin(repeating)
    assert case.kinds.count("AttributesSet") == 4
    activation = case.complete(6, 1)
    assert not activation.attributes_changed


def test_a_list_that_was_read_can_be_changed_without_changing_the_run() -> None:
    async def careless(ctx: Context) -> Any:
        tags: Any = ctx.attributes["tags"]
        tags.append("c")
        ctx.attributes["tags"] = tags
        ctx.attributes["tags"].clear()  # type: ignore[union-attr]  # a list at run time
        return [ctx.attributes["tags"], repr(ctx.attributes)]

    case = begin(careless, begin={"attributes": {"tags": ["a", "b"]}})
    assert case.history[0].attributes == {"tags": ["a", "b"]}  # type: ignore[union-attr]  # it is the start
    assert case.result == [["a", "b", "c"], "Attributes({'tags': ['a', 'b', 'c']})"]
    assert case.run.attributes == b'{"tags":["a","b","c"]}'


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Size.LARGE,
        10**30,
        -(10**30),
        1e308,
        "x" * 16_000,
        "",
        [],
        [Colour.RED],
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
    ],
)
def test_values_of_every_kind_come_back_from_history(value: Any) -> None:
    async def setting(ctx: Context) -> bool:
        ctx.attributes["a"] = value
        await work(1)
        return ctx.attributes["a"] == value or isinstance(value, datetime)

    case = begin(setting)
    case.complete_all(1)
    assert case.result is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", None),
        ("a", object()),
        ("a", {"b": 1}),
        ("a", b"bytes"),
        ("a", [1, 2]),
        ("a", ["a", None]),
        ("a", {"a"}),
        ("a", date(2026, 1, 31)),
        ("a", float("nan")),
        ("a", float("inf")),
        ("a", datetime(2026, 1, 31)),
        ("a", datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))),
        ("a", "\0"),
        ("a", "\ud800"),
        ("a", ["\ud800"]),
        ("a", "x" * 17_000),
        ("", 1),
        ("\0", 1),
        ("x" * 600, 1),
        (5, 1),
        (None, 1),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],  # the same in every process
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(name: Any, value: Any) -> None:
    async def setting(ctx: Context) -> list[str]:
        attributes: MutableMapping[Any, Any] = ctx.attributes
        attributes["before"] = 1
        with pytest.raises((TypeError, ValueError, OverflowError)):
            attributes[name] = value
        with pytest.raises(KeyError):
            del attributes["never"]
        return list(attributes)

    case = begin(setting)
    assert case.result == ["before"]


def test_an_item_that_cannot_be_kept_is_named() -> None:
    async def setting(ctx: Context) -> None:
        attributes: MutableMapping[Any, Any] = ctx.attributes
        with pytest.raises(TypeError, match=r"^attribute 'tags\[1\]' is text, as all items of a list are, not list$"):
            attributes["tags"] = ["a", ["b"]]
        with pytest.raises(ValueError, match=r"^attribute 'tags\[0\]' holds a NUL character"):
            attributes["tags"] = ["\0"]

    assert begin(setting).result is None


def test_all_together_have_a_limit() -> None:
    async def growing(ctx: Context) -> int:
        count = 0
        try:
            while True:
                ctx.attributes[f"a{count}"] = "x" * 1_000
                count += 1
        except ValueError as error:
            assert "16384 are allowed" in str(error)  # noqa: PT017  # the count is wanted as well
            return count

    assert begin(growing).result == 16


def test_what_a_submission_brings_is_held_to_the_same_rules() -> None:
    def why(attributes: dict[str, Any]) -> str | None:
        return why_impossible(wire.Start(workflow_id="a", workflow="w", attributes=attributes))

    assert why({"a": 1, "b": ["x"]}) is None
    assert "control character" in str(why({"\n": 1}))
    assert "16384" in str(why({"a": "x" * 20_000}))
    assert "NUL" in str(why({"a": ["\0"]}))


def engine(fn: Any, name: str) -> Engine:
    changed = App("changed")
    changed.workflow(name=name)(fn)
    return Engine(changed, Topics(), max_payload_bytes=1 << 20)


def test_changed_code_that_sets_other_values_goes_on_from_what_was_recorded() -> None:
    async def setting(ctx: Context) -> None:
        ctx.attributes["a"] = 1
        await work(1)
        ctx.attributes["a"] = 2
        await work(2)

    async def changed(ctx: Context) -> None:
        ctx.attributes["a"] = 2
        await work(1)
        ctx.attributes["a"] = 2
        await work(2)

    case = begin(setting)
    case.complete(3, 1)
    again = replay(engine(changed, "setting"), case.identity, case.rows)
    assert again.argument_differences == 1
    assert again.attributes == b'{"a":2}'


def test_another_name_is_a_difference() -> None:
    async def setting(ctx: Context) -> None:
        ctx.attributes["a"] = 1

    async def renaming(ctx: Context) -> None:
        ctx.attributes["b"] = 1

    case = begin(setting)
    with pytest.raises(CannotRun, match=r"holds attribute 'a', the code produced attribute 'b'"):
        replay(engine(renaming, "setting"), case.identity, case.rows)


# ---- status and milestones


def test_milestones_are_events_each_time_and_published() -> None:
    async def reaching(ctx: Context) -> None:
        ctx.milestone("half way")
        ctx.milestone("half way")
        await work(1)

    case = begin(reaching)
    assert case.last[:2] == [events.MilestoneReached(text="half way")] * 2
    assert [(one["status"], one["seq"]) for one in case.sent("everstep.run.milestone")] == [
        ("half way", 2),
        ("half way", 3),
    ]
    assert case.run.custom_status is None


@pytest.mark.parametrize("text", [None, 5, b"x", "\0", "\ud800", "ü" * 2_049])
def test_texts_that_cannot_be_kept_are_refused(text: Any) -> None:
    async def telling(ctx: Context) -> str:
        with pytest.raises(ValueError, match=r"ctx\.milestone: the text"):
            ctx.milestone(text)
        with pytest.raises(ValueError, match=r"ctx\.set_status: the text"):
            ctx.set_status(text)
        ctx.set_status("ü" * 2_048)
        ctx.set_status("")
        return "refused"

    case = begin(telling)
    assert case.result == "refused"
    assert case.run.custom_status == ""


def test_other_texts_are_differences_of_arguments_and_history_holds() -> None:
    async def telling(ctx: Context) -> None:
        ctx.set_status("one")
        ctx.milestone("two")
        await work(1)

    async def telling_more(ctx: Context) -> None:
        ctx.set_status("eins")
        ctx.milestone("zwei")
        await work(1)

    case = begin(telling)
    again = replay(engine(telling_more, "telling"), case.identity, case.rows)
    assert again.argument_differences == 2
    assert again.custom_status == "one"


def test_a_run_shows_nothing_until_it_says_something() -> None:
    async def silent(ctx: Context) -> None:
        await work(1)

    case: Case = begin(silent)
    assert case.run.attributes is None
    assert case.run.custom_status is None
    assert not case.last_activation.attributes_changed

"""Side effects: called once, recorded whatever comes of it, the same for ever after."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import pytest
from tests.engine.kit import Case, begin, raw, replay

from everstep import App, Context
from everstep._core.engine import CannotRun, Engine
from everstep.errors import RemoteError
from everstep_schemas import events
from everstep_schemas.names import Topics

app = App("side effects")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def quiet(ctx: Context) -> None: ...


@dataclass
class Config:
    region: str
    size: int


def read_config() -> Config:
    return Config("eu", len(os.listdir("/")))


def test_its_value_is_recorded_and_typed_by_its_annotation() -> None:
    async def deciding(ctx: Context) -> list[Any]:
        config = ctx.side_effect(read_config)
        loose = ctx.side_effect(lambda: {"n": 1})
        await work(1)
        return [config.region, type(config).__name__, loose["n"]]

    case = begin(deciding)
    recorded = case.last[0]
    assert isinstance(recorded, events.SideEffectRecorded)
    assert case.last[1] == events.SideEffectRecorded(value=raw({"n": 1}))
    case.complete_all(1)
    assert case.result == ["eu", "Config", 1]


def test_it_is_called_once_and_never_on_replay() -> None:
    called: list[int] = []

    async def deciding(ctx: Context) -> int:
        first = ctx.side_effect(lambda: len(called) + (called.append(1) or 0))  # type: ignore[func-returns-value]
        await work(1)
        return first

    case = begin(deciding, check=False)
    for _ in range(3):
        case.replayed().evict()
    assert len(called) == 1
    case.complete_all(1)
    assert case.result == 0


CONFIGURED: dict[str, str] = {}


async def failing(ctx: Context) -> str:
    try:
        ctx.side_effect(lambda: CONFIGURED["region"])
    except RemoteError as error:
        said = f"{error.type} {error}"
    await work(1)
    return said


def test_what_it_raises_is_recorded_and_is_the_same_error_on_replay() -> None:
    case = begin(failing)
    recorded = case.last[0]
    assert isinstance(recorded, events.SideEffectRecorded)
    assert recorded.error is not None
    assert (recorded.error.type, recorded.error.message) == ("KeyError", "'region'")
    case.complete_all(1)
    assert case.result == "KeyError KeyError: 'region'"


class Silent(Exception):
    def __str__(self) -> str:
        raise KeyError


@pytest.mark.parametrize(
    "error",
    [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError, BaseException, Silent],
)
def test_whatever_it_raises_is_an_error_that_the_code_can_catch(error: type[BaseException]) -> None:
    def raising() -> None:
        raise error

    async def deciding(ctx: Context) -> str:
        try:
            ctx.side_effect(raising)
        except RemoteError as remote:
            return remote.type.rpartition(".")[2]
        return "?"

    assert begin(deciding).result == error.__name__


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (float("nan"), "PayloadError"),
        (object(), "PayloadError"),
        ("\ud800", "PayloadError"),
        ("x" * 2_000, "PayloadError"),
    ],
    ids=["nan", "object", "surrogate", "large"],
)
def test_a_value_that_cannot_be_recorded_is_an_error_as_well(value: Any, type: str) -> None:
    async def deciding(ctx: Context) -> str:
        try:
            ctx.side_effect(lambda: value)
        except RemoteError as error:
            await work(1)
            return error.type.rpartition(".")[2]
        return "?"

    case = begin(deciding, limit=1_000)
    case.complete_all(1)
    assert case.result == type


def test_a_value_that_does_not_fit_its_annotation_is_an_error_as_well() -> None:
    def lying() -> int:
        return "seven"  # type: ignore[return-value]  # the mistake that is found

    async def deciding(ctx: Context) -> str:
        try:
            ctx.side_effect(lying)
        except RemoteError as error:
            return str(error)
        return "?"

    assert "Expected `int`, got `str`" in begin(deciding).result


def test_a_function_that_awaits_is_refused() -> None:
    async def reading() -> int:
        return 1

    async def deciding(ctx: Context) -> str:
        try:
            ctx.side_effect(reading)  # type: ignore[unused-coroutine]  # the mistake that is found
        except RemoteError as error:
            return str(error)
        return "?"

    assert "what takes time is an activity" in begin(deciding).result


def test_it_cannot_use_the_run() -> None:
    async def deciding(ctx: Context) -> list[str]:
        said: list[str] = []
        uses: list[Any] = [lambda: ctx.now(), lambda: ctx.set_status("x"), lambda: ctx.continue_as_new(quiet)]
        for use in uses:
            try:
                ctx.side_effect(use)
            except RemoteError as error:
                said.append(error.type.rpartition(".")[2])
        return said

    case = begin(deciding)
    assert case.result == ["NondeterminismError"] * 3
    assert case.run.custom_status is None


def test_another_value_is_no_difference_and_another_command_is_one() -> None:
    async def deciding(ctx: Context) -> int:
        value = ctx.side_effect(lambda: 5)
        await work(value)
        return value

    async def otherwise(ctx: Context) -> int:
        value = ctx.side_effect(lambda: 6)
        await work(value)
        return value

    async def without(ctx: Context) -> int:
        return await work(5)

    case = begin(deciding)

    def engine(fn: Any) -> Engine:
        changed = App("changed")
        changed.workflow(name="deciding")(fn)
        return Engine(changed, Topics(), max_payload_bytes=1 << 20)

    again = replay(engine(otherwise), case.identity, case.rows)
    assert again.argument_differences == 0, "it was given what was recorded"
    with pytest.raises(CannotRun, match="holds a side effect, the code produced activity 'work'"):
        replay(engine(without), case.identity, case.rows)


def test_a_value_of_another_type_than_the_code_now_wants_is_its_error() -> None:
    def number() -> int:
        return 5

    def text() -> str:
        return "5"

    async def deciding(ctx: Context) -> str:
        return f"{ctx.side_effect(number)}"

    async def changed(ctx: Context) -> str:
        return ctx.side_effect(text)

    case: Case = begin(deciding)
    other = App("changed")
    other.workflow(name="deciding")(changed)
    with pytest.raises(CannotRun, match="PayloadError"):
        replay(Engine(other, Topics(), max_payload_bytes=1 << 20), case.identity, case.rows)

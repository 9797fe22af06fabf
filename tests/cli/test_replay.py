"""`everstep replay` on files, without a server: what the code does otherwise is told from both sides."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from everstep.histories import Header, HistoryLine, NoHistory, read_all, written
from everstep_schemas import events

from .conftest import Everstep, Ran

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
HEAD = """
import os
from everstep import App, Context, seconds

app = App("shop")

@app.activity
async def charge(n: int, gift: bool = False) -> int: ...

@app.activity
async def pack(name: str) -> int: ...

@app.workflow
async def order(ctx: Context, n: int) -> int:
"""
FINE = (
    HEAD
    + """
    print("authors print")
    await charge(n)
    return await charge(n + 1)
"""
)
CHANGED = (
    HEAD
    + """
    await charge(n)
    return await pack("x")
"""
)
AS_A_GIFT = (
    HEAD
    + """
    await charge(n, n == 1)
    return await charge(n + 1, True)
"""
)
UNORDERED = (
    HEAD
    + """
    for name in set("anna bert cleo dora emil finn".split()):
        await pack(name)
    return n
"""
)
FATAL = (
    HEAD
    + """
    if n == 1:
        os._exit(3)
    await charge(n)
    return await charge(n + 1)
"""
)
ENDLESS = (
    HEAD
    + """
    while n == 1:
        n = 1
    await charge(n)
    return await charge(n + 1)
"""
)


CURIOUS = (
    HEAD
    + """
    await charge(len(os.listdir(".")))
    return await charge(n + 1)
"""
)


def began(n: int, workflow: str = "order", version: int = 1) -> events.Started:
    return events.Started(
        workflow=workflow, version=version, nonce="n", source="s", python="3.11", args=Raw(f"[{n}]".encode())
    )


def charged(n: int) -> events.ActivityScheduled:
    return events.ActivityScheduled(name="charge", queue="default", args=Raw(f"[{n}]".encode()))


def done(ref: int, value: int = 7) -> events.ActivityCompleted:
    return events.ActivityCompleted(ref=ref, value=Raw(str(value).encode()))


def exported(workflow_id: str, *history: events.AnyEvent, run: int = 1) -> list[str]:
    return [
        msgspec.json.encode(HistoryLine(workflow_id=workflow_id, run=run, seq=seq, at=AT, event=event)).decode()
        for seq, event in enumerate(history, 1)
    ]


def order(workflow_id: str, n: int = 1, run: int = 1) -> list[str]:
    """What `FINE` has done for an order."""
    return exported(workflow_id, began(n), charged(n), done(2), charged(n + 1), run=run)


class Shop:
    """A directory with the code of a shop, and histories."""

    def __init__(self, everstep: Everstep, directory: Path) -> None:
        self._everstep = everstep
        self._directory = directory

    async def replay(self, code: str, lines: Sequence[str], *options: str, stdin: bool = False) -> Ran:
        (self._directory / "shop.py").write_text(code)
        text = "".join(f"{line}\n" for line in lines)
        (self._directory / "histories.jsonl").write_text(text)
        source = "-" if stdin else "histories.jsonl"
        process = await self._everstep.begin(
            "replay", "shop:app", "--from", source, *options, cwd=self._directory, stdin=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate(text.encode() if stdin else b"")
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def shop(everstep: Everstep, tmp_path: Path) -> Shop:
    return Shop(everstep, tmp_path)


async def test_histories_that_the_code_repeats(shop: Shop) -> None:
    ended = exported("c", began(1), charged(1), done(2), charged(2), done(4, 9), events.Completed(value=Raw(b"9")))
    ran = await shop.replay(FINE, [*order("a"), "", *order("b", 5), *order("b", 6, run=2), *ended])
    assert (ran.code, ran.out, ran.err) == (0, "replayed 4 runs\n", "")
    told = await shop.replay(FINE, order("a"), "--json", stdin=True)
    assert told.json == {"replayed": 1, "not_begun": 0, "differs": [], "arguments": []}


async def test_what_differs_is_told_from_both_sides_with_the_line_and_what_to_do(shop: Shop) -> None:
    ran = await shop.replay(CHANGED, [*order("order 17"), *exported("b", began(1), charged(1))])
    assert ran.code == 1
    head, expected, got, advice, summary = ran.out.splitlines()
    assert head == "order 17, run 1, order version 1: differs at event 4"
    assert expected == "  history holds      activity 'charge' on queue 'default'"
    assert got.startswith("  the code produces  activity 'pack' on queue 'default' (at ")
    assert got.endswith(f"shop.py:{CHANGED[: CHANGED.index('return await pack')].count(chr(10)) + 1} in order)")
    assert "a new version" in advice
    assert summary == "replayed 2 runs, 1 cannot go on"
    [found] = (await shop.replay(CHANGED, order("order 17"), "--json")).json["differs"]
    assert (found["workflow_id"], found["run"], found["workflow"], found["version"]) == ("order 17", 1, "order", 1)
    assert (found["kind"], found["seq"]) == ("nondeterminism", 4)
    assert found["expected"] == "activity 'charge' on queue 'default'"
    assert "elsewhere" not in found


async def test_a_patch_that_was_deleted_too_early_is_to_be_retired_first(shop: Shop) -> None:
    ran = await shop.replay(FINE, exported("a", began(1), events.PatchMarked(id="gift"), charged(1)))
    _, expected, _, advice, _ = ran.out.splitlines()
    assert expected == "  history holds      patch 'gift'"
    assert advice == "  what to do         put ctx.retire_patch('gift') in its place until this run has ended"


async def test_other_arguments_are_a_warning_with_the_first_of_them(shop: Shop) -> None:
    ran = await shop.replay(AS_A_GIFT, order("a"))
    assert ran.code == 0
    head, expected, got, advice, summary = ran.out.splitlines()
    assert head == "a, run 1, order version 1: warning, other arguments at event 2"
    assert expected == "  history holds      activity 'charge' on queue 'default' with [1]"
    assert got.startswith("  the code produces  activity 'charge' on queue 'default' with [1,true] (at ")
    assert "nothing, if that is meant" in advice
    assert summary == "replayed 1 run, 1 with other arguments"
    [found] = (await shop.replay(AS_A_GIFT, order("a"), "--json")).json["arguments"]
    assert (found["kind"], found["commands"], found["seq"]) == ("arguments", 2, 2)


async def in_the_order_of_a_set(names: str, environment: dict[str, str]) -> list[str]:
    script = f"print(*set({names!r}.split()))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().split()


async def test_what_only_another_hash_seed_shows(shop: Shop, everstep: Everstep) -> None:
    everstep.set({"PYTHONHASHSEED": "42"})
    history: list[events.AnyEvent] = [began(1)]
    for name in await in_the_order_of_a_set("anna bert cleo dora emil finn", everstep.environment):
        packed = events.ActivityScheduled(name="pack", queue="default", args=Raw(json.dumps([name]).encode()))
        history += [packed, done(len(history) + 1)]
    ran = await shop.replay(UNORDERED, exported("a", *history[:-1]), "--json")
    [found] = ran.json["arguments"]
    assert found["elsewhere"]
    told = await shop.replay(UNORDERED, exported("a", *history[:-1]))
    assert "under another PYTHONHASHSEED: something is ordered by the hash of a string" in told.out


async def test_code_that_is_missing_is_a_finding(shop: Shop) -> None:
    lines = [*exported("a", began(1, "unheard_of")), *exported("b", began(1, version=2)), *order("c")]
    ran = await shop.replay(FINE, lines)
    assert ran.code == 1
    assert "a, run 1, unheard_of version 1: cannot be replayed" in ran.out
    assert "no code for workflow 'order' version 2: this app has versions 1" in ran.out
    assert ran.out.endswith("replayed 3 runs, 2 cannot go on\n")


async def test_a_history_that_ends_the_process_is_found_and_the_next_is_replayed(shop: Shop) -> None:
    ran = await shop.replay(FATAL, [*order("a"), *order("b", 2)], "--json")
    assert ran.code == 1
    report = ran.json
    assert report["replayed"] == 2
    [found] = report["differs"]
    assert (found["workflow_id"], found["kind"]) == ("a", "crashed")
    assert "replaying it ended the process" in found["message"]


async def test_code_that_never_yields_is_broken_off(shop: Shop) -> None:
    ran = await shop.replay(ENDLESS, [*order("a"), *order("b", 2)], "--json")
    assert (ran.code, ran.json["replayed"]) == (1, 2)
    [found] = ran.json["differs"]
    assert (found["workflow_id"], found["kind"]) == ("a", "blocked")
    assert "shop.py:" in found["message"]


async def test_code_that_looks_outside_is_a_finding_here_too(shop: Shop) -> None:
    ran = await shop.replay(CURIOUS, order("a"))
    assert ran.code == 1
    head, because, _ = ran.out.splitlines()
    assert head == "a, run 1, order version 1: cannot be replayed"
    assert "shop.py:" in because
    assert "Deploy code without it" in because


async def test_only_some(shop: Shop) -> None:
    lines = [*exported("a", began(1, "unheard_of")), *order("b"), *order("c")]
    assert (await shop.replay(FINE, lines, "--workflow", "order")).out == "replayed 2 runs\n"
    assert (await shop.replay(FINE, lines, "--workflow", "order", "--limit", "1")).out == "replayed 1 run\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "histories.jsonl, line 1 is no event: "),
        (['{"seq":1}'], "line 1 is no event"),
        (order("a")[1:], "line 1: event 2 of 'a' stands where 1 should"),
        ([*order("a"), *order("b")[:2], order("a")[2]], "line 7: event 3 of 'a' stands where 1 should"),
        (exported("a", charged(1)), "line 1: a history begins with the event `started`"),
    ],
)
async def test_a_file_that_holds_something_else(shop: Shop, lines: list[str], message: str) -> None:
    ran = await shop.replay(FINE, lines)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


async def test_an_app_that_cannot_be_loaded(shop: Shop) -> None:
    ran = await shop.replay("import nowhere\n", order("a"))
    assert (ran.code, ran.out) == (2, "")
    assert "module 'shop' imports 'nowhere', which is not installed here" in ran.err
    assert (await shop.replay("raise SystemExit(3)\n", order("a"))).code == 2


@pytest.mark.parametrize("options", [(), ("--all-open", "--from", "-")])
async def test_what_to_replay_must_be_said_once(everstep: Everstep, options: tuple[str, ...]) -> None:
    ran = await everstep("replay", "tests.e2e.shop:app", *options)
    assert ran.code == 2
    assert "--from FILE or --all-open" in ran.err


async def test_a_database_that_does_not_answer(everstep: Everstep) -> None:
    assert (await everstep("replay", "tests.e2e.shop:app", "--all-open")).code == 2
    everstep.set({"EVERSTEP_POSTGRES_DSN": "postgresql://me:s3cret@127.0.0.1:1/app"})
    ran = await everstep("replay", "tests.e2e.shop:app", "--all-open")
    assert (ran.code, ran.out) == (3, "")
    assert "s3cret" not in ran.err


def test_rows_are_activations() -> None:
    [recorded] = read_all([line.encode() for line in order("a", run=3)], "x")
    assert (recorded.identity.workflow_id, recorded.identity.run, recorded.identity.nonce) == ("a", 3, "n")
    assert [(row.seq, len(events.decode_events(row.data))) for row in recorded.rows] == [(1, 2), (3, 2)]
    assert {row.at for row in recorded.rows} == {int(AT.timestamp()) * 1_000_000 + 123_456}


def test_no_lines_are_no_histories() -> None:
    assert list(read_all([b"\n"], "x")) == []
    with pytest.raises(NoHistory, match="x, line 2"):
        list(read_all([b"\n", b"[]"], "x"))


def test_a_header_says_whose_the_lines_after_it_are() -> None:
    lines = [line.encode() for line in exported("", began(1), charged(1))]
    text = written(Header("a", 2), lines) + written(Header("b", 3), lines)
    found = [(one.identity.workflow_id, one.identity.run) for one in read_all(text.splitlines(), "x")]
    assert found == [("a", 2), ("b", 3)]


def test_payloads_are_kept_as_they_are() -> None:
    began_with = msgspec.structs.replace(began(1), args=Raw(b'[1.50, {"b":1,"a":12345678901234567890123}]'))
    [recorded] = read_all([line.encode() for line in exported("a", began_with)], "x")
    [started] = events.decode_events(recorded.rows[0].data)
    assert isinstance(started, events.Started)
    assert bytes(started.args) == b'[1.50, {"b":1,"a":12345678901234567890123}]'

# ruff: noqa: S608  # only the schema's name is put into SQL
"""Stored histories, as those see them who replay runs or look an answer up."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from msgspec import Raw
from tests.http.conftest import START, Rows

from everstep import reads, stored_histories
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo

pytestmark = pytest.mark.integration

STARTED = events.Started(workflow="w", version=1, nonce="n", source="s", python="3.11.7")


def requested(update_id: str) -> events.UpdateRequested:
    return events.UpdateRequested(name="add", value=Raw(b"1"), update_id=update_id)


def completed(update_id: str, value: bytes = b"1") -> events.UpdateCompleted:
    return events.UpdateCompleted(ref=1, update_id=update_id, value=Raw(value))


async def test_a_run_as_it_is_replayed(rows: Rows, reader: reads.Reader) -> None:
    parent = events.Parent(workflow_id="boss", run=3, seq=7, token="t")
    reason = b'{"kind":"crashed","message":"it ended the process"}'
    await rows.run("a", 1, status="failed", closed_at=START)
    key = await rows.run("a", 2, parent=msgspec.json.encode(parent), condition="stalled", reason=reason)
    run = await reader.histories.run("a")
    assert run is not None
    assert (run.identity.run_key, run.identity.run, run.identity.parent) == (key, 2, parent)
    assert (run.status, run.condition) == ("running", "stalled")
    assert run.reason is not None
    assert run.reason.kind == "crashed"
    assert await reader.histories.run_by_key(key) == run
    older = await reader.histories.run("a", 1)
    assert older is not None
    assert older.status == "failed"
    assert await reader.histories.run("b") is None
    assert await reader.histories.run_by_key(99) is None


async def test_a_history_comes_page_by_page(rows: Rows, reader: reads.Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_histories, "_PAGE_ROWS", 2)
    key = await rows.run("a")
    await rows.history(key, 1, STARTED, events.StatusSet(text="x"))
    for seq in (3, 4, 5):
        await rows.history(key, seq, events.TimerFired(ref=1))
    pages = [page async for page in reader.histories.pages(key)]
    assert [[row.seq for row in page] for page in pages] == [[1, 3], [4, 5]]
    assert pages[1][0].at == int((START + timedelta(seconds=4)).timestamp() * 1_000_000)


async def test_the_answer_to_an_update_is_that_of_the_newest_run_that_knows_it(
    rows: Rows, reader: reads.Reader
) -> None:
    first, second = await rows.run("a", 1), await rows.run("a", 2)
    await rows.history(first, 1, STARTED)
    await rows.history(first, 2, requested('u"1'), completed('u"1', b'"old"'))
    await rows.history(first, 4, requested("ü2"))
    await rows.history(first, 5, completed("ü2"))
    error = ErrorInfo(type="E")
    await rows.history(second, 1, STARTED)
    await rows.history(second, 2, requested('u"1'))
    await rows.history(second, 3, events.UpdateFailed(ref=2, update_id='u"1', error=error))
    await rows.history(second, 4, requested("u3"))
    answer = reader.histories.answer
    assert await answer("a", 'u"1') == (2, events.UpdateFailed(ref=2, update_id='u"1', error=error))
    assert await answer("a", "ü2") == (1, completed("ü2"))
    assert await answer("a", "u3") == (2, None)
    assert await answer("a", 'u"1', 1) == (1, completed('u"1', b'"old"'))
    assert await answer("a", "ü2", 2) is None
    assert await answer("a", "u4") is None
    assert await answer("b", "u3") is None


async def test_what_only_looks_like_an_answer_is_none(rows: Rows, reader: reads.Reader) -> None:
    key = await rows.run("a")
    lie = Raw(b'{"update_id":"u1","kind":"update_completed","source":"s1"}')
    inherited = events.Inheritance(update_ids=("u1",))
    await rows.history(
        key, 1, msgspec.structs.replace(STARTED, inherited=inherited, args=Raw(b"[" + bytes(lie) + b"]"))
    )
    await rows.history(key, 2, events.SignalReceived(name="x", value=lie, signal_id="u1"))
    await rows.history(key, 3, events.CallbackCompleted(ref=1, value=lie, source="other"))
    assert await reader.histories.answer("a", "u1") is None
    assert not await reader.histories.closed_by(key, 1, "s1")


async def test_who_completed_a_callback(rows: Rows, reader: reads.Reader) -> None:
    key = await rows.run("a")
    created = events.CallbackCreated(token="t", url="u")
    await rows.history(key, 1, STARTED, created, created)
    await rows.history(key, 4, events.CallbackCompleted(ref=2, value=Raw(b"1"), source="s1"))
    await rows.history(key, 5, events.CallbackFailed(ref=3, error=ErrorInfo(type="E"), source="s2"))
    closed_by = reader.histories.closed_by
    assert await closed_by(key, 2, "s1")
    assert await closed_by(key, 3, "s2")
    assert not await closed_by(key, 2, "s2")
    assert not await closed_by(key, 3, "s1")


async def test_open_runs_page_by_page(rows: Rows, reader: reads.Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_histories, "_PAGE_RUNS", 2)
    for number in range(5):
        await rows.run(f"o{number}", started_at=START)
    await rows.run("n", workflow="nightly")
    await rows.run("d", status="completed", closed_at=START)

    async def ids(workflow: str | None = None) -> list[str]:
        return sorted([run.identity.workflow_id async for run in reader.histories.open_runs(workflow)])

    assert await ids() == ["n", "o0", "o1", "o2", "o3", "o4"]
    assert await ids("nightly") == ["n"]


async def test_orchestrators_that_live_and_have_the_code(rows: Rows, reader: reads.Reader) -> None:
    async def register(id: str, address: str, workflows: dict[str, list[int]], lease: str, leaving: bool) -> None:
        await rows.connection.execute(
            f"""INSERT INTO "{rows.schema}".orchestrators (id, lock_key, lease_until, postmaster_started, leaving,
                address, host, pid, version, migration, workflows)
                VALUES ($1, hashtext($1), now() + $2::text::interval, now(), $3, $4, 'h', 1, '0', 1, $5)""",
            id,
            lease,
            leaving,
            address,
            msgspec.json.encode(workflows),
        )

    await register("a", "a:1", {"w": [1, 2]}, "1 minute", True)
    await register("b", "b:1", {"w": [2]}, "1 minute", False)
    await register("c", "c:1", {"w": [1]}, "1 minute", False)
    await register("d", "d:1", {"w": [2]}, "-1 minute", False)
    assert await reader.histories.addresses("w", 2) == ["b:1", "a:1"]
    assert await reader.histories.addresses("w", 3) == []

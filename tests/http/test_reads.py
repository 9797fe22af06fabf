"""Reading functions on rows as an orchestrator writes them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.http.conftest import START, Rows

from everstep import _database, reads
from everstep.settings import Settings
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.sql import queries

pytestmark = pytest.mark.integration

STARTED = events.Started(workflow="fulfil_order", version=1, nonce="n", source="s", python="3.11.7")


async def ids(reader: reads.Reader, **filters: Any) -> list[str]:
    return [run.workflow_id for run in (await reader.list_runs(**filters)).runs]


async def test_lists_newest_first_by_workflow_status_and_condition(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a")
    await rows.run("b", workflow="nightly")
    await rows.run("c", condition="stalled")
    await rows.run("d", status="completed", closed_at=START)

    assert await ids(reader) == ["d", "c", "b", "a"]
    assert await ids(reader, workflow="nightly") == ["b"]
    assert await ids(reader, status="running") == ["c", "b", "a"]
    assert await ids(reader, status="stalled") == ["c"]
    assert await ids(reader, status="completed", workflow="nightly") == []


async def test_pages_neither_repeat_nor_skip_while_runs_are_written_and_closed(
    rows: Rows, reader: reads.Reader
) -> None:
    for number in range(7):
        await rows.run(f"r{number}", started_at=START)  # ties are broken by the key

    seen: list[str] = []
    cursor = None
    for page_number in range(4):
        page = await reader.list_runs(limit=2, cursor=cursor)
        seen += [run.workflow_id for run in page.runs]
        cursor = page.cursor
        await rows.run(f"later{page_number}")
        await rows.close(f"r{page_number}", "completed")

    assert sorted(seen) == ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]
    assert cursor is None


async def test_a_page_that_ends_with_the_last_run_has_no_cursor(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a")
    assert (await reader.list_runs(limit=1)).cursor is None


async def test_cursors_keep_microseconds_and_years_before_1970(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("old", started_at=datetime(1969, 1, 1, 0, 0, 0, 1, tzinfo=UTC))
    await rows.run("new", started_at=datetime(1969, 1, 1, 0, 0, 0, 2, tzinfo=UTC))
    first = await reader.list_runs(limit=1)
    assert [run.workflow_id for run in first.runs] == ["new"]
    assert await ids(reader, limit=1, cursor=first.cursor) == ["old"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!", "MS4y" * 30, "Zi5mLmY", "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZi4x", "é"]
)
async def test_a_cursor_that_nobody_gave_is_an_error(reader: reads.Reader, cursor: str) -> None:
    with pytest.raises(reads.InvalidCursor, match="pass on the one of the last page"):
        await reader.list_runs(cursor=cursor)


async def test_lists_by_attributes(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a", attributes='{"customer": "C-9", "tags": ["eu", "late"], "size": 2}')
    await rows.run("b", attributes='{"customer": "C-9"}')
    await rows.run("c")

    assert await ids(reader, attributes={"customer": "C-9"}) == ["b", "a"]
    assert await ids(reader, attributes={"customer": "C-9", "size": 2}) == ["a"]
    assert await ids(reader, attributes={"tags": ["late"]}) == ["a"]
    assert await ids(reader, attributes={"customer": 9}) == []
    assert await ids(reader, attributes={}) == ["c", "b", "a"]
    [listed] = (await reader.list_runs(attributes={"size": 2})).runs
    assert listed.attributes == {"customer": "C-9", "tags": ["eu", "late"], "size": 2}


async def test_describes_where_a_run_comes_from_and_what_it_was_given(rows: Rows, reader: reads.Reader) -> None:
    parent = events.Parent(workflow_id="boss", run=3, seq=7, token="secret")
    key = await rows.run("a", parent=msgspec.json.encode(parent))
    began = msgspec.structs.replace(
        STARTED, memo={"note": msgspec.Raw(b'{"x":1.50}')}, start_at=START, expires_at=START + timedelta(1), attempt=2
    )
    await rows.history(key, 1, began)
    run = await reader.describe("a")
    assert run is not None
    assert run.parent == reads.RunRef(workflow_id="boss", run=3)
    assert (run.begins_at, run.expires_at, run.attempt) == (START, START + timedelta(1), 2)
    encoded = msgspec.json.encode(run)
    assert b'"memo":{"note":{"x":1.50}}' in encoded
    assert b"secret" not in encoded
    assert (await reader.list_runs()).runs[0].parent == run.parent


async def test_a_run_that_waits_for_its_code_is_described_by_what_it_will_begin_with(
    rows: Rows, reader: reads.Reader
) -> None:
    key = await rows.run("a", condition="stalled")
    for number, data in enumerate((wire.encoder.encode(wire.Cancel(workflow_id="a")), b"")):
        began = msgspec.structs.replace(STARTED, memo={"note": msgspec.Raw(b"1")})
        await rows.connection.execute(
            'INSERT INTO "user".parked (shard, number, workflow_id, run_key, data) VALUES ($1, $2, $3, $4, $5)',
            key >> 48,
            2 - number,
            "a",
            key,
            data or wire.encoder.encode(began),
        )
    run = await reader.describe("a")
    assert run is not None
    assert {name: bytes(value) for name, value in run.memo.items()} == {"note": b"1"}


async def test_describes_the_newest_run_or_the_one_asked_for(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a", 1, status="failed", closed_at=START)
    await rows.run("a", 2, custom_status="waiting", next_wakeup_at=START + timedelta(days=1))

    newest = await reader.describe("a")
    assert newest is not None
    assert (newest.run, newest.status, newest.custom_status) == (2, "running", "waiting")
    assert newest.next_wakeup_at == START + timedelta(days=1)
    first = await reader.describe("a", 1)
    assert first is not None
    assert (first.run, first.status, first.closed_at) == (1, "failed", START)
    assert await reader.describe("a", 3) is None
    assert await reader.describe("b") is None


async def test_a_stalled_run_says_what_was_expected_and_what_came(rows: Rows, reader: reads.Reader) -> None:
    reason = {"kind": "nondeterminism", "message": "differs", "expected": "activity pay", "got": "timer", "seq": 4}
    await rows.run("a", condition="stalled", reason=msgspec.json.encode(reason))
    run = await reader.describe("a")
    assert run is not None
    assert msgspec.to_builtins(run.reason) == reason


async def test_finds_the_run_that_a_submission_created_among_all_of_the_id(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a", 1, source="mine", status="completed", closed_at=START)
    await rows.run("a", 2, source="other")
    found = await reader.run_of_source("a", "mine")
    assert found is not None
    assert found.run == 1
    assert await reader.run_of_source("b", "mine") is None


async def test_history_numbers_the_events_within_rows_and_gives_their_instants(
    rows: Rows, reader: reads.Reader
) -> None:
    key = await rows.run("a")
    await rows.history(key, 1, STARTED, events.ActivityScheduled(name="pay", queue="default"))
    await rows.history(key, 3, events.ActivityCompleted(ref=2, value=msgspec.Raw(b'{"x":1.50}')), _completed(b"7"))

    page = await reader.history("a")
    assert page is not None
    assert [(event.seq, event.at, type(event.event)) for event in page.events] == [
        (1, START + timedelta(seconds=1), events.Started),
        (2, START + timedelta(seconds=1), events.ActivityScheduled),
        (3, START + timedelta(seconds=3), events.ActivityCompleted),
        (4, START + timedelta(seconds=3), events.Completed),
    ]
    assert page.next_after is None
    assert b'"value":{"x":1.50}' in msgspec.json.encode(page)  # payloads pass through as they are


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7])
async def test_history_pages_begin_and_end_anywhere_within_rows(rows: Rows, reader: reads.Reader, limit: int) -> None:
    key = await rows.run("a")
    await rows.history(key, 1, STARTED, *[events.StatusSet(text="x")] * 2)
    await rows.history(key, 4, events.TimerFired(ref=9))
    await rows.history(key, 5, events.TimerFired(ref=9), events.StatusSet(text="y"))

    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await reader.history("a", after=after, limit=limit)
        assert page is not None
        assert 1 <= len(page.events) <= limit
        seen += [event.seq for event in page.events]
        after = page.next_after
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_history_beyond_its_end_and_of_a_run_without_one_is_empty(rows: Rows, reader: reads.Reader) -> None:
    key = await rows.run("a")
    empty = await reader.history("a")
    await rows.history(key, 1, STARTED)
    beyond = await reader.history("a", after=1)
    assert empty is not None
    assert beyond is not None
    assert (empty.events, empty.next_after, beyond.events, beyond.next_after) == ([], None, [], None)


async def test_history_pages_are_bounded_in_bytes_but_never_empty(rows: Rows, reader: reads.Reader) -> None:
    key = await rows.run("a")
    big = msgspec.Raw(b'"' + b"x" * (3 << 20) + b'"')
    await rows.history(key, 1, STARTED)
    for seq in (2, 3, 4):
        await rows.history(key, seq, events.SignalReceived(name="s", value=big, signal_id=str(seq)))

    page = await reader.history("a")
    assert page is not None
    assert [event.seq for event in page.events] == [1, 2, 3]
    assert page.next_after == 3
    assert [event.seq async for event in reader.whole_history("a")] == [1, 2, 3, 4]


async def test_results_come_out_of_the_closing_event(rows: Rows, reader: reads.Reader) -> None:
    error = ErrorInfo(type="ValueError", message="no", traceback="t")
    endings: list[tuple[str, str, events.AnyEvent]] = [
        ("done", "completed", _completed(b"[1]")),
        ("broken", "failed", events.Failed(error=error)),
        ("stopped", "cancelled", events.Cancelled(reason="asked")),
        ("killed", "terminated", events.Terminated(reason="now")),
    ]
    for workflow_id, status, closing in endings:
        key = await rows.run(workflow_id)
        await rows.history(key, 1, STARTED)
        await rows.history(key, 2, events.TimerFired(ref=1), closing)
        await rows.close(workflow_id, status)

    done, broken = await reader.result("done"), await reader.result("broken")
    stopped, killed = await reader.result("stopped"), await reader.result("killed")
    assert done is not None
    assert broken is not None
    assert stopped is not None
    assert killed is not None
    assert (done.status, bytes(done.value), done.closed_at) == ("completed", b"[1]", START + timedelta(hours=1))  # type: ignore[arg-type]  # it is set
    assert (broken.status, broken.error) == ("failed", error)
    assert (stopped.status, stopped.reason) == ("cancelled", "asked")
    assert (killed.status, killed.reason) == ("terminated", "now")


async def test_a_continued_run_names_the_one_that_goes_on(rows: Rows, reader: reads.Reader) -> None:
    error = ErrorInfo(type="ValueError", message="no")
    for run, closing in ((1, events.Continued(workflow="w")), (2, events.Continued(workflow="w", error=error))):
        key = await rows.run("a", run)
        await rows.history(key, 1, STARTED, closing)
        await rows.close("a", "continued", run)
    key = await rows.run("a", 3)
    await rows.history(key, 1, STARTED)
    await rows.history(key, 2, events.TimedOut(), events.ActivityCancelled(ref=1))
    await rows.close("a", "timed_out", 3)

    first, second, last = [await reader.result("a", run) for run in (1, 2, None)]
    assert first is not None
    assert second is not None
    assert last is not None
    assert (first.status, first.next_run, first.last_run, first.error) == ("continued", 2, 3, None)
    assert (second.status, second.next_run, second.last_run, second.error) == ("continued", 3, 3, error)
    assert (last.status, last.run, last.next_run, last.last_run) == ("timed_out", 3, None, None)


async def test_a_result_is_found_below_rows_that_cancelling_filled(rows: Rows, reader: reads.Reader) -> None:
    key = await rows.run("a")
    await rows.history(key, 1, STARTED)
    await rows.history(key, 2, events.Terminated(reason="now"), events.ActivityCancelled(ref=1))
    await rows.history(key, 4, events.ActivityCancelled(ref=1))
    await rows.close("a", "terminated")
    result = await reader.result("a")
    assert result is not None
    assert result.reason == "now"


async def test_the_result_of_a_running_run_is_its_status(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a")
    result = await reader.result("a")
    assert result is not None
    assert msgspec.json.decode(msgspec.json.encode(result)) == {"workflow_id": "a", "run": 1, "status": "running"}
    assert await reader.result("b") is None


async def test_a_reader_goes_on_after_its_connections_were_cut(rows: Rows, reader: reads.Reader) -> None:
    await rows.run("a")
    await ids(reader)
    await rows.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'everstep reads'"
    )
    for _ in range(100):
        try:
            assert await ids(reader) == ["a"]
            break
        except reads.DatabaseUnavailable:
            continue
    else:
        pytest.fail("the reader did not connect again")


async def test_what_is_wrong_with_the_database_is_said_in_words(postgres_dsn: str) -> None:
    async with reads.connect(Settings(postgres_dsn=postgres_dsn)) as reader:
        with pytest.raises(reads.DatabaseUnavailable, match="run `everstep migrate`"):
            await reader.list_runs()
    async with reads.connect(Settings(postgres_dsn="postgresql://u@127.0.0.1:1/x")) as reader:
        with pytest.raises(reads.DatabaseUnavailable, match="check EVERSTEP_POSTGRES_DSN"):
            await reader.list_runs()


async def test_nobody_waits_for_ever_for_a_busy_pool(
    rows: Rows, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reads.connect(db_settings, connections=1) as reader:
        await ids(reader)
        monkeypatch.setattr(_database, "_CONNECT_SECONDS", 0.1)
        async with rows.connection.transaction():
            await rows.connection.execute('LOCK TABLE "user".runs')
            blocked = asyncio.create_task(ids(reader))
            await asyncio.sleep(0)
            with pytest.raises(reads.DatabaseUnavailable, match=r"\(TimeoutError\)"):
                await reader.list_runs()
        assert await blocked == []


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        ((None, None, None, None, None, 51, None), "runs_by_start"),
        ((None, None, None, START - timedelta(seconds=1000), 1, 51, None), "runs_by_start"),
        (("fulfil_order", "running", None, None, None, 51, None), "runs_open"),
        (("fulfil_order", "running", None, START - timedelta(seconds=1000), 1, 51, None), "runs_open"),
        ((None, None, "stalled", None, None, 51, None), "runs_condition"),
        ((None, None, None, None, None, 51, '{"customer": "C-17"}'), "runs_attributes"),
        ((None, None, None, None, None, 51, '{"tier": "gold"}'), "runs_by_start"),  # every second would do
        ((None, None, None, START - timedelta(seconds=1000), 1, 51, '{"customer": "C-17"}'), "runs_attributes"),
    ],
)
async def test_lists_are_served_by_an_index(rows: Rows, arguments: tuple[object, ...], index: str) -> None:
    await fill(rows)
    plan = await planned(rows, "list_runs", *arguments)
    assert f"using {index}" in plan or f"on {index}" in plan, plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize(
    ("name", "arguments", "index"),
    [
        ("stored_run", ("17", None), "runs_workflow_id_run_key"),
        ("stored_run_by_key", (17,), "runs_pkey"),
        ("beginning", (17,), "history_pkey"),
        ("open_runs", (None, None, None, None, 200), "runs_open"),
        ("open_runs", ("fulfil_order", "fulfil_order", START, 1, 200), "runs_open"),
        ("history_rows", (17, 5, 1000, 1 << 20), "history_pkey"),
        ("rows_with", (17, 5, b'"source":"s1"', 200), "history_pkey"),
        ("rows_of_id_with", ("17", b'"update_id":"u1"', None, 200), "history_pkey"),
        ("rows_of_id_with", ("17", b'"update_id":"u1"', 1, 200), "history_pkey"),
    ],
)
async def test_histories_are_served_by_an_index(
    rows: Rows, name: str, arguments: tuple[object, ...], index: str
) -> None:
    await fill(rows)
    plan = await planned(rows, name, *arguments)
    assert f"using {index}" in plan or f"on {index}" in plan, plan
    assert "Seq Scan" not in plan


async def planned(rows: Rows, name: str, *arguments: object) -> str:
    """How Postgres would run the statement with these arguments."""
    query = "EXPLAIN " + queries("reads", "user")[name]
    return "\n".join(row[0] for row in await rows.connection.fetch(query, *arguments))


async def fill(rows: Rows) -> None:
    """Gives the tables some size."""
    await rows.connection.execute(
        """INSERT INTO "user".runs
           (run_key, shard, workflow_id, run, workflow, version, nonce, source, status, closed_at, condition,
            started_at, attributes)
           SELECT n, 0, n::text, 1, CASE n % 50 WHEN 0 THEN 'fulfil_order' ELSE 'nightly' END, 1, 'n', n::text,
                  CASE n % 10 WHEN 0 THEN 'running' ELSE 'completed' END, CASE n % 10 WHEN 0 THEN NULL ELSE now() END,
                  CASE n % 1000 WHEN 0 THEN 'stalled' END, $1::timestamptz - n * interval '1 second',
                  jsonb_build_object('customer', 'C-' || n % 5000, 'tier', 'gold')
           FROM generate_series(1, 20000) n""",
        START,
    )
    await rows.connection.execute('ANALYZE "user".runs')
    await rows.connection.execute("SET plan_cache_mode = force_custom_plan")
    await rows.connection.execute(
        'INSERT INTO "user".history SELECT run_key, seq, started_at, $1 FROM "user".runs, generate_series(1, 5) seq',
        events.encode_events([STARTED]),
    )
    await rows.connection.execute('ANALYZE "user".history')


def _completed(value: bytes) -> events.Completed:
    return events.Completed(value=msgspec.Raw(value))

"""A nightly fan-out over many files: so many at a time, a few may fail, progress to look at while it runs.

everstep dev examples.nightly:app
everstep start nightly_import '"2026-11-28"' 500 --id night-28
everstep query night-28 progress
"""

from dataclasses import dataclass

from everstep import App, Backoff, Context, Failures, Retry, activity, minutes, seconds

app = App("nightly", retry=Retry(max_attempts=3, backoff=Backoff(seconds(0.1), maximum=minutes(1))))


@dataclass
class Imported:
    path: str
    rows: int


@app.activity
async def list_files(day: str, count: int) -> list[str]:
    return [f"{day}/{n:05}.csv" for n in range(count)]


@app.activity(timeout=minutes(5))
def import_file(path: str) -> Imported:
    if path.endswith("13.csv"):  # broken for good
        raise ValueError(f"{path} has no header")
    if path.endswith("7.csv") and activity.info().attempt == 1:
        raise ConnectionError("the store is busy")
    return Imported(path, rows=len(path))


@app.activity
async def report(rows: int, failed: list[str]) -> str:
    return f"{rows} rows, {len(failed)} files failed"


@app.workflow
async def nightly_import(ctx: Context, day: str, count: int = 1000) -> str:
    files = await list_files(day, count)
    imported = await ctx.map(import_file, files, concurrency=200, tolerate=Failures(ratio=0.05))
    rows = sum(one.rows for one in imported.values)
    return await report(rows, [f"{bad.item}: {bad.error}" for bad in imported.failed])


@app.workflow
async def nightly_in_batches(ctx: Context, day: str, count: int = 1000) -> int:
    files = [path for path in await list_files(day, count) if not path.endswith("13.csv")]
    lengths = await ctx.map_batches(measure_files, files, size=50)
    return sum(lengths)


@app.activity
async def measure_files(paths: list[str]) -> list[int]:
    return [len(path) for path in paths]

"""A map over child workflows, each with a history of its own; a few may fail.

everstep dev examples.etl:app
everstep start load_all 20 --id etl-1 --wait
"""

import asyncio
from dataclasses import dataclass

from everstep import App, ChildError, Context, Failures, Retry

app = App("etl", retry=Retry(max_attempts=2))


@dataclass
class Table:
    name: str


@dataclass
class Loaded:
    table: str
    rows: int


class NoSuchTable(Exception):
    """It is in the catalogue and not in the database."""


@app.activity
async def catalogue(count: int) -> list[Table]:
    return [Table(f"table-{n}") for n in range(count)]


@app.activity(raises=[NoSuchTable])
async def extract(table: Table) -> str:
    if table.name.endswith("7"):
        raise NoSuchTable(table.name)
    return f"/tmp/{table.name}.parquet"


@app.activity
async def load(path: str, table: Table) -> Loaded:
    return Loaded(table.name, len(path))


@app.workflow
async def load_table(ctx: Context, table: Table, full: bool = False) -> Loaded:
    return await load(await extract(table), table)


@app.workflow
async def load_all(ctx: Context, count: int) -> str:
    result = await ctx.map(load_table, await catalogue(count), concurrency=10, tolerate=Failures(3))
    failed = ", ".join(bad.item.name for bad in result.failed)
    return f"{sum(one.rows for one in result.values)} rows; failed: {failed or 'none'}"


@app.workflow
async def load_two(ctx: Context, a: Table, b: Table) -> str:
    first = load_table.options(id=f"{ctx.info.workflow_id}-{a.name}", on_parent_close="cancel")(a, full=True)
    second = ctx.child(load_table, b, id=f"{ctx.info.workflow_id}-{b.name}")
    try:
        x, y = await asyncio.gather(first, second)
    except ChildError as error:
        return f"{error.workflow_id} failed: {error.cause}"
    return f"{x.rows + y.rows} rows"

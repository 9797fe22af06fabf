"""An entity: a counter that lives for ever under its id, changed by signals, read by queries, its history kept short.

everstep dev examples.counter:app
everstep start counter 0 --id visits
everstep signal visits add 5
everstep query visits value
everstep signal visits close
"""

from everstep import App, Context, Query, Signal

app = App("counters")
add = Signal[int]("add")
close = Signal[None]("close")
value = Query[int]("value")


@app.workflow
async def counter(ctx: Context, total: int, changes_per_run: int = 1000) -> int:
    changes, closed = 0, False

    def on_add(amount: int) -> None:
        nonlocal total, changes
        total += amount
        changes += 1

    def on_close(_: None) -> None:
        nonlocal closed
        closed = True

    ctx.on_query(value, lambda: total)
    ctx.on_signal(add, on_add)
    ctx.on_signal(close, on_close)
    await ctx.wait_until(lambda: closed or changes >= changes_per_run or ctx.info.continue_as_new_suggested)
    if closed:
        return total
    ctx.continue_as_new(counter, total, changes_per_run)

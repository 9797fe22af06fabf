"""Activities and `ctx`, and the check itself."""

from __future__ import annotations

from everstep.checking.rules._rule import rule

TABLE = (
    rule(
        "EV501",
        "dropped-handle",
        "calls of activities, of workflows, of `ctx.sleep` and other waits as statements, and of `async` functions "
        "that nothing awaits",
        "Calling schedules, and what is scheduled and not awaited is cancelled when the run ends. The coroutine of an "
        "`async` function does not even begin.",
        "await it, or keep the handle and await it later",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            charge(id, 100)
            ctx.sleep(days(1))
            return "charged"
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            charging = charge(id, 100)
            await ctx.sleep(days(1))
            return await charging
        """,
    ),
    rule(
        "EV502",
        "activity-called-directly",
        "`.fn` of an activity in a workflow",
        "It runs the activity's code in the orchestrator, again at every replay, and nothing of it is recorded.",
        "call the activity itself; take what both need into a function of its own",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge.fn(id, 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(id, 100)
        """,
    ),
    rule(
        "EV503",
        "acting-handler",
        "handlers of queries, validators, conditions of `ctx.wait_until` and what is exposed, if they await, call "
        "activities or command anything",
        "They are called at any time, on replays that are thrown away too, and may only look.",
        "only read variables of the workflow; what acts is an update, or the workflow itself",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            async def price() -> str:
                return await charge(id, 0)

            ctx.on_query("price", price)
            return await charge(id, 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            price = 100
            ctx.on_query("price", lambda: price)
            return await charge(id, price)
        """,
    ),
    rule(
        "EV900",
        "unused-ignore",
        "comments `# everstep: ignore[…]` that excuse nothing, or name no rule that there is",
        "What they excused is gone, and they would hide what comes next.",
        "remove it",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(id, 100)  # everstep: ignore[EV101] the clock is not read here any more
        """,
        """
        from datetime import UTC, datetime


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            ctx.log.info("replayed", at=datetime.now(UTC))  # everstep: ignore[EV101] only for the log
            return await charge(id, 100)
        """,
        is_note=True,
    ),
)

"""Asyncio."""

from __future__ import annotations

from everstep.checking.rules._rule import rule

TABLE = (
    rule(
        "EV401",
        "early-bound-asyncio",
        "`gather`, `wait_for`, `as_completed` and `all_tasks` imported by name from `asyncio`",
        "Within a workflow these are Everstep's own, which behave alike on every Python; importing `everstep` puts "
        "them into the module `asyncio`. The services import it first. In a process that does not, a test for "
        "instance, the name is bound to the original before. Methods are not affected: `from asyncio import "
        "TaskGroup` is fine.",
        "import asyncio and call them as asyncio.…",
        """
        from asyncio import gather


        @app.workflow
        async def order(ctx: Context, ids: list[str]) -> list[str]:
            return list(await gather(*[charge(id, 100) for id in ids]))
        """,
        """
        @app.workflow
        async def order(ctx: Context, ids: list[str]) -> list[str]:
            return list(await asyncio.gather(*[charge(id, 100) for id in ids]))
        """,
    ),
    rule(
        "EV402",
        "hand-made-future",
        "`asyncio.Future()`",
        "It hashes by its address, so a set of them, such as asyncio keeps, has another order each time.",
        "use asyncio.get_running_loop().create_future(), or an asyncio.Event or Queue",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            paid: asyncio.Future[str] = asyncio.Future()
            paid.set_result(await charge(id, 100))
            return await paid
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            paid: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            paid.set_result(await charge(id, 100))
            return await paid
        """,
    ),
    rule(
        "EV403",
        "dropped-task",
        "`asyncio.create_task` as a statement, so that nobody holds the task",
        "Nobody hears its errors, and it is cancelled wherever it stands when the run ends.",
        "keep it and await it, or start it in an asyncio.TaskGroup",
        """
        async def remind(ctx: Context, id: str) -> None:
            await ctx.sleep(days(1))
            await charge(id, 1)


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            asyncio.create_task(remind(ctx, id))
            return await charge(id, 100)
        """,
        """
        async def remind(ctx: Context, id: str) -> None:
            await ctx.sleep(days(1))
            await charge(id, 1)


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            async with asyncio.TaskGroup() as group:
                group.create_task(remind(ctx, id))
                charged = group.create_task(charge(id, 100))
            return charged.result()
        """,
    ),
    rule(
        "EV404",
        "swallowed-cancellation",
        "`except:` and `except BaseException` around an `await` without a `raise`, `suppress(BaseException)`, and "
        "`return` in `finally`",
        "Cancellation arrives as `CancelledError` and eviction as `RunEvicted`: both are meant to end the code.",
        "catch Exception, or raise again",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            try:
                return await charge(id, 100)
            except BaseException:
                return "not charged"
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            try:
                return await charge(id, 100)
            except Exception:
                return "not charged"
        """,
    ),
    rule(
        "EV405",
        "endless-loop",
        "`while True` without an `await`, `break`, `return`, `raise` or `yield`",
        "It holds up every run of the orchestrator until the watchdog breaks it.",
        "await something in it, such as ctx.sleep(…) or ctx.wait_until(…)",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> None:
            paid = charge(id, 100)
            while True:
                if paid.done():
                    ctx.set_status("paid")
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> None:
            await charge(id, 100)
            ctx.set_status("paid")
        """,
    ),
)

"""What leads out of the run."""

from __future__ import annotations

from everstep.checking.rules._rule import rule

TABLE = (
    rule(
        "EV101",
        "clock",
        "`datetime.now`, `date.today`, the clocks of `time`; conversions such as `time.localtime` without a time",
        "A replay happens at another time. `ctx.now()` is the instant of the event that the code reacts to. "
        "`datetime.now()` is the one clock that nothing can refuse when the code runs, so only this check finds it.",
        "use ctx.now()",
        """
        from datetime import UTC, datetime


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            if datetime.now(UTC).hour >= 18:
                await ctx.sleep(seconds(3600))
            return await charge(id, 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            if ctx.now().hour >= 18:
                await ctx.sleep(seconds(3600))
            return await charge(id, 100)
        """,
    ),
    rule(
        "EV102",
        "randomness",
        "`random`'s functions, `random.Random()` without a seed, `secrets`, `uuid.uuid4`, `os.urandom`, `numpy.random`",
        "A replay draws other numbers. `ctx.random` and `ctx.uuid4()` draw the same again, and others in every run.",
        "use ctx.random or ctx.uuid4()",
        """
        import uuid


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(f"{id}-{uuid.uuid4()}", 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(f"{id}-{ctx.uuid4()}", 100)
        """,
    ),
    rule(
        "EV103",
        "blocking-sleep",
        "`time.sleep`",
        "It holds up every run of the orchestrator, and waits again at each replay. `ctx.sleep` and `asyncio.sleep` "
        "are durable timers.",
        "await ctx.sleep(…)",
        """
        import time


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            time.sleep(5)
            return await charge(id, 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            await ctx.sleep(seconds(5))
            return await charge(id, 100)
        """,
    ),
    rule(
        "EV104",
        "files",
        "`open`, what looks at or changes files in `os`, `os.path`, `pathlib`, `shutil`, `tempfile`, `glob`",
        "Another machine has other files, and what is written is written again at every replay.",
        "do it in an activity, or once with ctx.side_effect(lambda: …)",
        """
        from pathlib import Path


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            price = int(Path("price.txt").read_text())
            return await charge(id, price)
        """,
        """
        from pathlib import Path


        @app.activity
        def price_of(file: str) -> int:
            return int(Path(file).read_text())


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(id, await price_of("price.txt"))
        """,
    ),
    rule(
        "EV105",
        "environment",
        "`os.environ`, `os.getenv`, `os.getpid`, `sys.argv`, `platform`, `input` and the like",
        "A run is replayed on other machines, by later deployments.",
        "pass the value as an argument, or read it in an activity",
        """
        import os


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(id, int(os.environ["PRICE"]))
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str, price: int) -> str:
            return await charge(id, price)
        """,
    ),
    rule(
        "EV106",
        "network",
        "calls of `socket`, `requests`, `httpx`, `aiohttp`, `urllib.request`, cloud SDKs, database drivers and others, "
        "and of Everstep's own client",
        "Other systems answer otherwise next time, are called again at every replay, and hold up all other runs "
        "meanwhile.",
        "do it in an activity",
        """
        from urllib.request import urlopen


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            with urlopen(f"https://prices.example/{id}") as answer:
                return await charge(id, int(answer.read()))
        """,
        """
        from urllib.request import urlopen


        @app.activity
        def price_of(id: str) -> int:
            with urlopen(f"https://prices.example/{id}") as answer:
                return int(answer.read())


        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            return await charge(id, await price_of(id))
        """,
    ),
    rule(
        "EV107",
        "threads-and-processes",
        "threads, processes, executors, `asyncio.to_thread`, `run_in_executor`, `asyncio.run`",
        "They finish in another order each time, outside of the loop whose order is recorded.",
        "await activities with asyncio.gather; what computes for long is an activity",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> int:
            return await asyncio.to_thread(sum, range(10**8))
        """,
        """
        @app.activity
        def add_up(count: int) -> int:
            return sum(range(count))


        @app.workflow
        async def order(ctx: Context, id: str) -> int:
            return await add_up(10**8)
        """,
    ),
    rule(
        "EV108",
        "output",
        "`print`, `logging`, `structlog`, `sys.stdout`",
        "Every replay writes it again. `ctx.log` is silent on replay, and its lines carry the run.",
        "use ctx.log",
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            print("charging", id)
            return await charge(id, 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> str:
            ctx.log.info("charging", order=id)
            return await charge(id, 100)
        """,
    ),
)

"""Order, identity and state."""

from __future__ import annotations

from everstep.checking.rules._rule import rule

TABLE = (
    rule(
        "EV201",
        "set-order",
        "loops over a set, lists made of one, `set.pop` and whatever else depends on a set's order; not sets of "
        "numbers or of tasks, and not what goes into `sorted`, `sum`, `any` and the like",
        "The hashes of strings differ from process to process, and with them the order of a set.",
        "go through it in sorted order, or keep a list or a dict instead of the set",
        """
        @app.workflow
        async def order(ctx: Context, ids: list[str]) -> None:
            for id in set(ids):
                await charge(id, 100)
        """,
        """
        @app.workflow
        async def order(ctx: Context, ids: list[str]) -> None:
            for id in sorted(set(ids)):
                await charge(id, 100)
        """,
    ),
    rule(
        "EV202",
        "identity",
        "`id()`, `hash()`, and the text of objects that have none of their own",
        "Addresses and the hashes of strings differ from process to process.",
        "use something that the object itself says, such as a name or a number",
        """
        @app.workflow
        async def order(ctx: Context, id_: str) -> str:
            return await charge(f"{id_}-{hash(id_)}", 100)
        """,
        """
        from zlib import crc32


        @app.workflow
        async def order(ctx: Context, id_: str) -> str:
            return await charge(f"{id_}-{crc32(id_.encode())}", 100)
        """,
    ),
    rule(
        "EV301",
        "shared-state",
        "`global`, and changes of what belongs to a module, a class or a function around the workflow",
        "All runs of a process share it, and a replay finds there what earlier runs, or this one, have left.",
        "keep it in a local variable, pass it on, return it; ask an activity for what runs share",
        """
        charged: list[str] = []


        @app.workflow
        async def order(ctx: Context, id: str) -> int:
            charged.append(await charge(id, 100))
            return len(charged)
        """,
        """
        @app.workflow
        async def order(ctx: Context, id: str) -> int:
            charged: list[str] = []
            charged.append(await charge(id, 100))
            return len(charged)
        """,
    ),
)

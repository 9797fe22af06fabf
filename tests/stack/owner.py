"""A process that owns a stack until it is killed or, given a directory, leaves one up; prints the environment first."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from everstep import stack


async def own(way: str) -> None:
    async with stack.open(way) as opened:
        print(json.dumps(stack.environment(opened)), flush=True)
        await asyncio.Event().wait()


async def leave(way: str, directory: Path) -> None:
    print(json.dumps(stack.environment(await stack.LocalStack(directory, way).up())), flush=True)


if __name__ == "__main__":
    way, *directory = sys.argv[1:]
    asyncio.run(leave(way, Path(directory[0])) if directory else own(way))

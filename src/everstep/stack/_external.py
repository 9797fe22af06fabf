"""A server whose address the environment gives: used as it is, never started or ended."""

from __future__ import annotations

from everstep.stack._port import StackError


class External:
    """A server that belongs to someone else."""

    def __init__(self, address: str, variable: str) -> None:
        self.address = address
        self._variable = variable

    async def start(self) -> None:
        """It is expected to run already."""

    async def stop(self) -> None:
        raise self._refusal("stopped")

    async def kill(self) -> None:
        raise self._refusal("killed")

    async def running(self) -> bool:
        return True

    def _refusal(self, verb: str) -> StackError:
        return StackError(
            f"the server that {self._variable} names is not ours and was not {verb}; "
            "unset the variable to use a local stack"
        )

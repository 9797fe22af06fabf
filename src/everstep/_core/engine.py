"""The pure engine: bytes, events and the present instant go in, decisions come out.

Nothing below `everstep._core` opens a connection, reads a clock, starts a thread or draws a random number. The
orchestrator, the test kit and every command that replays a history use this one engine.
"""

from __future__ import annotations

from collections.abc import Callable

from everstep._core.handlers import QueryFailed, Refusal
from everstep._core.messages import Sender, messages_of
from everstep._core.model import FLAGS, Activation, CannotRun, HistoryRow, Identity, StallReason, Successor
from everstep._core.ports import Code, Guard, LogSink, Silence, Unguarded, WorkflowCode
from everstep._core.program import Program
from everstep._core.replay import Replay
from everstep._core.run import LiveRun
from everstep_schemas import events
from everstep_schemas.names import Topics

__all__ = [
    "FLAGS",
    "Activation",
    "CannotRun",
    "Engine",
    "HistoryRow",
    "Identity",
    "LiveRun",
    "QueryFailed",
    "Refusal",
    "Replay",
    "StallReason",
    "Successor",
    "messages_of",
]


class Engine:
    """Starts and replays runs of the workflows that `app` holds.

    `guard` hears when a step begins and ends. `log` is where `ctx.log` writes; without one it is silent. `api_url`
    tells the address that callbacks are to be answered at.
    """

    def __init__(
        self,
        app: Code,
        topics: Topics,
        *,
        max_payload_bytes: int,
        guard: Guard | None = None,
        log: LogSink | None = None,
        api_url: Callable[[], str] = lambda: "",
    ) -> None:
        self._app = app
        self._topics = topics
        self._limit = max_payload_bytes
        self._guard = guard or Unguarded()
        self._log = log or Silence()
        self._api_url = api_url

    def knows(self, workflow: str, version: int) -> bool:
        return version in self._app.workflows.get(workflow, {})

    def newest(self, workflow: str) -> int | None:
        """The version that a new run takes, or None for a workflow that nobody has."""
        return max(self._app.workflows.get(workflow, {}), default=None)

    def code(self, workflow: str, version: int) -> WorkflowCode | None:
        """The code of a workflow, if it is here."""
        return self._app.workflows.get(workflow, {}).get(version)

    def start(self, identity: Identity, started: events.Started, now: int) -> tuple[LiveRun, Activation]:
        """Create a run and run its code for the first time. Raises `CannotRun`."""
        run = self._live(identity)
        try:
            return run, run.apply(started, now)
        except CannotRun:
            run.evict()
            raise

    def replay(self, identity: Identity, *, stays: bool = False) -> Replay:
        """A replay to be fed with the run's rows. Raises `CannotRun` for a workflow or version that is not here.

        A run that `stays` can be queried also after it has closed; it has to be evicted all the same.
        """
        return Replay(self._live(identity, stays=stays))

    def _live(self, identity: Identity, *, stays: bool = False) -> LiveRun:
        code = self.code(identity.workflow, identity.version)
        if code is None:
            raise CannotRun(StallReason(kind="unknown_workflow", message=self._unknown(identity)))
        program = Program(identity, code, self._limit, self._guard, self._log, self._api_url())
        return LiveRun(identity, program, Sender(identity, self._topics), stays=stays)

    def _unknown(self, identity: Identity) -> str:
        versions = ", ".join(map(str, sorted(self._app.workflows.get(identity.workflow, {}))))
        here = f"has versions {versions}" if versions else "does not have it"
        version = f" version {identity.version}" if identity.version else ""
        return f"no code for workflow {identity.workflow!r}{version}: this app {here}. Deploy it"

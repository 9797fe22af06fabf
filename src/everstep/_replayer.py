"""`python -m everstep._replayer MODULE:app`: the process of `everstep._replaying`."""

from __future__ import annotations

import os
import sys

import msgspec

from everstep import _doors
from everstep._core.engine import CannotRun, Engine
from everstep._replaying import Hello, Outcome, read_frame, write_frame
from everstep._watchdog import Watchdog
from everstep.app import LoadError, load
from everstep.histories import History
from everstep.settings import Settings
from everstep_schemas.names import Topics


def main(app: str) -> None:
    """Answers frames on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the authors' code prints
    watchdog = Watchdog()
    _doors.install()  # before the authors' code is imported, as in an orchestrator
    try:
        loaded = load(app)
    except LoadError as error:
        write_frame(answers, Hello(str(error)))
        return
    write_frame(answers, Hello())
    limit = Settings.from_environment().max_payload_bytes
    engine = Engine(loaded, Topics(), max_payload_bytes=limit, guard=watchdog)
    watchdog.start()
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        write_frame(answers, _replay(engine, msgspec.msgpack.decode(frame, type=History)))


def _replay(engine: Engine, history: History) -> Outcome:
    try:
        replay = engine.replay(history.identity)
        for row in history.rows:
            replay.feed(row)
        run = replay.finish()
    except CannotRun as error:
        return Outcome(error.reason)
    outcome = Outcome(differing=run.argument_differences, first=run.differing)
    run.evict()
    return outcome


if __name__ == "__main__":
    main(sys.argv[1])

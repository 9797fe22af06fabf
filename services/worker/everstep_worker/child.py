"""A child process of a worker: loads the app and runs one activity after the other in its main thread.

`python -m everstep_worker.child MODULE:app FD`, started by `everstep_worker.processes`, in a session of its own: so a
Ctrl-C in the terminal does not reach it, and what it starts can be ended together with it. A second thread listens. It
learns at once when the worker is gone, however that came, and ends everything then: nobody waits for the result, and
another worker will run the command. Only code that holds the interpreter's lock all the while (one long call into C)
delays this.

What ends a child early: the worker says that nobody waits, upon which SIGTERM is sent to the main thread and raises
there, so that `finally` blocks run; after a moment the worker kills the whole session. SIGTERM and SIGINT from
elsewhere are ignored, since supervisors send them to all processes of a service: the worker decides.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any, NoReturn

from everstep import logging
from everstep._outcomes import bad_arguments, too_large
from everstep.app import App, LoadError, load
from everstep.settings import Settings
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCommand, command_decoder, encoder
from everstep_worker import scope
from everstep_worker.failures import failure, not_registered
from everstep_worker.frames import Beat, Began, Broken, Cancel, Channel, Completed, Failed, Ready, Setup, Work

BEAT_SECONDS = 0.05  # at least between two heartbeats that are passed on
LEAVE_SECONDS = 2.0  # for what runs at an idle interpreter's exit
TERMINATED = 128 + signal.SIGTERM


class Beats:
    """Passes heartbeats on, the latest of each moment, without making who says them wait."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._latest: bytes | None = None
        self._pending = False
        self._passing = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._serve, name="everstep-heartbeats", daemon=True).start()

    def say(self, details: Any, encoded: bytes | None) -> None:
        """From any thread. One without details says the same again."""
        if encoded is not None:
            self._latest = encoded
        if not self._pending:
            self._pending = True
            self._wake.put(None)

    def flush(self) -> None:
        """Passes on what is not yet; what the next activity says is not mixed up with it."""
        self._pass_on()
        self._latest = None

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the worker is gone, and this process is about to end
            while True:
                self._wake.get()
                self._pass_on()
                time.sleep(BEAT_SECONDS)

    def _pass_on(self) -> None:
        with self._passing:
            if self._pending:
                self._pending = False  # first: what is said from now on is passed on as well
                self._channel.send(Beat(self._latest))


class Child:
    """Runs what the worker says, one at a time."""

    def __init__(self, app: App, channel: Channel, settings: Settings) -> None:
        self._activities = {name: one for name, one in app.activities.items() if not one.is_remote}
        self._channel = channel
        self._most_bytes = settings.max_payload_bytes
        self._beats = Beats(channel)
        self._work: SimpleQueue[bytes | None] = SimpleQueue()
        self._busy = False
        self._cancelled = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def serve(self) -> None:
        """Until the worker has nothing more to say."""
        threading.Thread(target=self._listen, name="everstep-listener", daemon=True).start()
        self._channel.send(Ready())
        while not self._cancelled and (command := self._work.get()) is not None:
            self._busy = True
            answer = self._answer(command)
            self._beats.flush()
            self._busy = False
            self._channel.send(answer)

    # ---- in the main thread

    def _answer(self, value: bytes) -> Completed | Failed:
        outcome = self._outcome(command_decoder.decode(value))
        if isinstance(outcome, ErrorInfo):
            return Failed(encoder.encode(outcome))
        return Completed(outcome)

    def _outcome(self, command: ActivityCommand) -> bytes | ErrorInfo:
        name = command.activity
        activity = self._activities.get(name)
        if activity is None:
            return not_registered(name, self._activities, f"process {os.getpid()}")
        try:
            args, kwargs = activity.decode_args(command.args, command.kwargs)
        except Exception as error:
            return bad_arguments(name, error)
        self._channel.send(Began())
        try:
            result = contextvars.copy_context().run(self._call, activity.fn, args, kwargs, command)
            encoded = activity.encode_result(result)
        except BaseException as error:  # SystemExit and KeyboardInterrupt included: a failed attempt, no more
            return failure(activity, error)
        over = len(encoded) > self._most_bytes
        return too_large(name, len(encoded), self._most_bytes) if over else encoded

    def _call(self, fn: Any, args: list[Any], kwargs: dict[str, Any], command: ActivityCommand) -> Any:
        with scope.of(command, lambda: self._cancelled, self._beats.say, self._most_bytes):
            return fn(*args, **kwargs)

    def _signalled(self, number: int, frame: object) -> None:
        if self._cancelled:
            sys.exit(TERMINATED)

    # ---- in the listening thread

    def _listen(self) -> None:
        while (frame := self._channel.receive()) is not None:
            if isinstance(frame, Work):
                self._work.put(frame.command)
            elif isinstance(frame, Cancel):
                self._cancelled = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if not self._busy:
            self._work.put(None)
            time.sleep(LEAVE_SECONDS)
        _end_everything()


def _end_everything() -> NoReturn:
    """This process and all that it has started, unless that left the session."""
    os.killpg(0, signal.SIGKILL)
    os._exit(TERMINATED)


def main() -> int:
    channel = Channel(socket.socket(fileno=int(sys.argv[2])))
    setup = channel.receive()
    if not isinstance(setup, Setup):
        return 1
    sys.path[:] = setup.path
    logging.configure(setup.settings, "worker")
    try:
        app = load(setup.target)
    except LoadError as error:
        channel.send(Broken(str(error)))
        return 1
    with contextlib.suppress(OSError):  # the worker is gone
        Child(app, channel, setup.settings).serve()
    return 0


if __name__ == "__main__":
    from everstep_worker import child  # under its own name, by which tracebacks leave its frames out

    sys.exit(child.main())

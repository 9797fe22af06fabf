"""What a worker and its child processes say to each other, over a pair of sockets: a length, then that many bytes."""

from __future__ import annotations

import socket
import struct
import threading

import msgspec

from everstep.settings import Settings

HEAD = struct.Struct(">Q")


class Frame(msgspec.Struct, frozen=True, tag=True):
    """One thing said."""


# ---- by the worker


class Setup(Frame, frozen=True):
    """What the child is to load, and from where. Said once, first."""

    target: str
    path: list[str]
    settings: Settings


class Work(Frame, frozen=True):
    """A command's bytes; the next one comes when this is answered."""

    command: bytes


class Cancel(Frame, frozen=True):
    """Nobody waits for the answer any more, and the child is to end."""


# ---- by the child


class Ready(Frame, frozen=True):
    """The app is loaded."""


class Broken(Frame, frozen=True):
    """It cannot be loaded, and the child ends."""

    reason: str


class Began(Frame, frozen=True):
    """The next thing to run is the first line of the activity."""


class Beat(Frame, frozen=True):
    """The code has made a heartbeat with these details, or none."""

    details: bytes | None = None


class Completed(Frame, frozen=True):
    """The result's JSON."""

    value: bytes


class Failed(Frame, frozen=True):
    """The error as JSON."""

    error: bytes


ToChild = Setup | Work | Cancel
ToWorker = Ready | Broken | Began | Beat | Completed | Failed

to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_encoder = msgspec.msgpack.Encoder()


def packed(frame: Frame) -> bytes:
    """The frame as it is sent."""
    body = _encoder.encode(frame)
    return HEAD.pack(len(body)) + body


class Channel:
    """The child's end. Threads may send at once; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    def send(self, frame: Frame) -> None:
        """Raises `OSError` if the worker is gone."""
        with self._sending:
            self._socket.sendall(packed(frame))

    def receive(self) -> ToChild | None:
        """The next frame, None if the worker is gone or has nothing more to say."""
        head = self._exactly(HEAD.size)
        body = None if head is None else self._exactly(HEAD.unpack(head)[0])
        return None if body is None else to_child.decode(body)

    def _exactly(self, size: int) -> bytes | None:
        received = bytearray()
        while len(received) < size:
            try:
                some = self._socket.recv(min(size - len(received), 1 << 20))
            except OSError:
                return None
            if not some:
                return None
            received += some
        return bytes(received)

"""What a load generator says on one connection: a sensor's stream, unary calls, or HTTP/1.1 requests; pure.

Each is handed what the socket gave and gives back the answers in it, and what must be said in return; requests are
made of bytes that were prepared before the clock starts.
"""

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from benchmarks.server import http2
from latentwire import messages as m
from latentwire import wire
from latentwire.errors import LatentwireError
from latentwire.v1 import stream_pb2

STREAM = "/" + stream_pb2.DESCRIPTOR.services_by_name["Sensors"].full_name + "/Stream"
BATCH_TAG, SEQUENCE_TAG = b"\x0a", b"\x08"  # SensorMessage.batch, LatentBatch.first_sequence
SHOWN = 200


@dataclass(frozen=True, slots=True)
class Heard:
    """Answers that came, in the order of their requests, and bytes to send in return."""

    answers: list[bytes]
    reply: bytes = b""


class Peer(Protocol):
    """One connection."""

    def opening(self) -> bytes:
        """What it begins with."""
        ...

    @property
    def joined(self) -> bool:
        """It may send requests now."""
        ...

    def request(self, number: int) -> bytes:
        """The bytes of prepared request ``number``."""
        ...

    def feed(self, received: bytes) -> Heard:
        """What the socket gave; LatentwireError if the server refused anything."""
        ...


class _Http2:
    """A connection's bookkeeping: settings and pings acknowledged, the server's windows kept."""

    def __init__(self) -> None:
        self._frames = http2.Frames()
        self._window = http2.FIRST_WINDOW
        self._stream_window = http2.FIRST_WINDOW

    def _spend(self, size: int) -> None:
        self._window -= size
        self._stream_window -= size
        if min(self._window, self._stream_window) < 0:
            raise LatentwireError("the server's flow-control window is full: send fewer images at once")

    def _housekeeping(self, frame: http2.Frame) -> bytes:
        """Take note of a frame that is no answer; what to say in return."""
        if frame.kind == http2.SETTINGS and not frame.flags & http2.ACK:
            for start in range(0, len(frame.body), 6):
                if frame.body[start : start + 2] == b"\x00\x04":
                    self._stream_window += int.from_bytes(frame.body[start + 2 : start + 6], "big") - http2.FIRST_WINDOW
            return http2.frame(http2.SETTINGS, http2.ACK, 0)
        if frame.kind == http2.PING and not frame.flags & http2.ACK:
            return http2.frame(http2.PING, http2.ACK, 0, frame.body)
        if frame.kind == http2.WINDOW_UPDATE:
            more = int.from_bytes(frame.body, "big")
            if frame.stream:
                self._stream_window += more
            else:
                self._window += more
        if frame.kind in (http2.GOAWAY, http2.RST_STREAM):
            raise LatentwireError(f"the server ended the connection: {frame.body[:SHOWN]!r}")
        return b""


class Sensor(_Http2):
    """A sensor's stream. batches are numbered as they are sent."""

    def __init__(self, hello: m.Hello, name: str, batches: Sequence[tuple[int, bytes]], authority: str) -> None:
        """``batches`` are made by ``after_sequence``, of messages at the hello's operating point."""
        super().__init__()
        said = wire.from_sensor_to_proto(replace(hello, sensor=name, session=secrets.token_hex(8))).SerializeToString()
        start = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(STREAM, authority))
        self._opening = http2.opening() + start + http2.frame(http2.DATA, 0, 1, http2.message(said))
        self._batches = batches
        self._messages = http2.Messages()
        self._sequence = 0
        self._asked: deque[int] = deque()  # first sequences
        self.joined = False

    def opening(self) -> bytes:
        return self._opening

    def request(self, number: int) -> bytes:
        images, rest = self._batches[number]
        batch = SEQUENCE_TAG + http2.varint(self._sequence) + rest if self._sequence else rest
        body = http2.message(BATCH_TAG + http2.varint(len(batch)) + batch)
        self._sequence += images
        self._spend(len(body))
        return http2.frame(http2.DATA, 0, 1, body)

    def feed(self, received: bytes) -> Heard:
        answers: list[bytes] = []
        reply = b""
        for frame in self._frames.feed(received):
            if frame.kind != http2.DATA:
                reply += self._housekeeping(frame)
                if frame.kind == http2.HEADERS and frame.flags & http2.END_STREAM:
                    raise LatentwireError(f"the server ended the stream: {frame.body[:SHOWN]!r}")
                continue
            for body in self._messages.feed(frame.body):
                if self.joined:
                    answers.append(body)
                else:
                    self.joined = True  # by the welcome
        return Heard(answers, reply)


class UnaryCaller(_Http2):
    """Calls of a unary method, one at a time; ``bodies`` are the requests,
    as ``http2.message`` makes them."""

    def __init__(self, path: str, bodies: Sequence[bytes], authority: str) -> None:
        super().__init__()
        self._headers = http2.headers(path, authority)
        self._bodies = bodies
        self._messages = http2.Messages()
        self._stream = -1
        self._answer: bytes | None = None
        self.joined = False

    def opening(self) -> bytes:
        return http2.opening()

    def request(self, number: int) -> bytes:
        self._stream += 2
        self._stream_window = max(self._stream_window, http2.FIRST_WINDOW)  # each call has its own
        self._spend(len(self._bodies[number]))
        start = http2.frame(http2.HEADERS, http2.END_HEADERS, self._stream, self._headers)
        return start + http2.frame(http2.DATA, http2.END_STREAM, self._stream, self._bodies[number])

    def feed(self, received: bytes) -> Heard:
        answers: list[bytes] = []
        reply = b""
        for frame in self._frames.feed(received):
            if frame.kind == http2.DATA:
                for body in self._messages.feed(frame.body):
                    self._answer = body
            else:
                reply += self._housekeeping(frame)
                self.joined = self.joined or frame.kind == http2.SETTINGS
            if frame.flags & http2.END_STREAM and frame.kind in (http2.DATA, http2.HEADERS):
                if self._answer is None:
                    raise LatentwireError(f"a call was refused: {frame.body[:SHOWN]!r}")
                answers.append(self._answer)
                self._answer = None
        return Heard(answers, reply)


class HttpCaller:
    """Requests on a connection that is kept, one at a time; ``requests`` are made by ``http_post``."""

    joined = True

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._rest = b""

    def opening(self) -> bytes:
        return b""

    def request(self, number: int) -> bytes:
        return self._requests[number]

    def feed(self, received: bytes) -> Heard:
        self._rest += received
        head, blank, body = self._rest.partition(b"\r\n\r\n")
        if not blank:
            return Heard([])
        if not head.startswith(b"HTTP/1.1 200"):
            raise LatentwireError(f"a request was refused: {self._rest[:SHOWN]!r}")
        place = head.lower().index(b"content-length:") + len(b"content-length:")
        length = int(head[place:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return Heard([])
        self._rest = body[length:]
        return Heard([body[:length]])


def after_sequence(batch: m.LatentBatch) -> tuple[int, bytes]:
    """A batch's images, and itself serialized less its first field, the sequence."""
    bare = wire.from_sensor_to_proto(replace(batch, first_sequence=0)).batch
    return batch.images, bare.SerializeToString()


def http_post(path: str, body: bytes, content_type: str, authority: str) -> bytes:
    """An HTTP/1.1 request."""
    head = f"POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: {content_type}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

"""The sensor's end of the stream: keeps a link to the server, sends what is coded, takes what comes back.

A stream carries, in order: Hello, Welcome, every unanswered message from where the server wants it, then new
ones. When it breaks, the next one begins the same way, so nothing is lost and nothing is numbered twice.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import grpc

from edge_sensor.channel import Backoff, Dialer, refusal
from edge_sensor.commands import Commands
from edge_sensor.config import SensorConfig
from edge_sensor.ledger import Ledger
from edge_sensor.recorder import Recorder
from edge_sensor.session import Session, said
from edge_sensor.window import CodedMessage, Unanswered
from latentwire import messages as m
from latentwire.errors import (
    MalformedMessageError,
    ProtocolError,
    SequenceError,
    ServerUnavailableError,
    error_named,
)
from latentwire.v1 import stream_pb2 as pb
from latentwire.v1.stream_pb2_grpc import SensorsStub
from latentwire.wire import from_sensor_to_proto, from_server_from_proto

WELCOME_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
DROP_REPORT_INTERVAL_S = 1.0

log = logging.getLogger("latentwire.sensor")

Call = grpc.aio.StreamStreamCall[pb.SensorMessage, pb.ServerMessage]


class _LinkLost(Exception):
    """The stream ended without a word; another is to be made."""


class LinkObserver(Protocol):
    """Follows what the link does. Called in the event loop; may not block. Times are monotonic seconds."""

    def connected(self, now_s: float) -> None:
        """The server has said welcome."""
        ...

    def sent(self, message: CodedMessage, now_s: float) -> None:
        """gRPC was handed a message; again after a cut link, and then ``sent_s`` is of the first time."""
        ...

    def answered(self, images: Sequence[Unanswered], now_s: float) -> None:
        """These images of one message have their results, or were refused."""
        ...

    def lost(self, now_s: float) -> None:
        """The stream is over."""
        ...


class Pace(Protocol):
    """Says when messages may be sent, so that they do not queue up where nobody sees them. Called in the event loop."""

    def send_in_s(self, now_s: float) -> float:
        """Seconds until the next message may be handed to gRPC."""
        ...


@dataclass(slots=True)
class _Link:
    """One stream: where it stands."""

    call: Call
    cursor: int  # the next image to send on it
    announced: set[int]  # operating points the server knows on it
    sensor_digest: str  # the bundle that its hello named
    reported: dict[str, int] = field(default_factory=dict)
    reported_s: float = -math.inf
    draining: bool = False
    closed: bool = False  # our half


class StreamClient:
    """Sends a session's messages and resolves their answers, over as many streams as it takes."""

    def __init__(
        self,
        config: SensorConfig,
        dialer: Dialer,
        session: Session,
        ledger: Ledger,
        commands: Commands,
        recorder: Recorder,
        observers: Sequence[LinkObserver] = (),
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``dialer`` reaches the servers; ``recorder`` has the results written down."""
        self._config = config
        self._session = session
        self._ledger = ledger
        self._commands = commands
        self._recorder = recorder
        self._observers = observers
        self._pace = pace
        self._clock = clock
        self._dialer = dialer
        self._backoff = Backoff(ceiling_s=config.max_backoff_s)
        self._welcomes = 0
        self._patient = config.spool is not None  # waits for a first server as long as it takes
        self._renewed = False  # the session is a new one because the server would not go on with the old one
        self._said = ""
        self.connected = False  # a server has said welcome, and the stream is not over

    async def run(self) -> None:
        """Return when the session is complete.

        Raises ServerUnavailableError when no server was reached in time, and the error a server refused us
        by.
        """
        begun_s = self._clock()
        while not self._session.complete:
            try:
                reason = await self._one_stream(begun_s)
            except SequenceError as error:
                reason = await self._renew(error)
            if self._session.complete:
                return
            pause_s = self._backoff.next_s()
            if not self._welcomes and not self._patient:
                left_s = begun_s + self._config.connect_timeout_s - self._clock()
                if left_s <= 0:
                    raise self._unavailable(reason)
                pause_s = min(pause_s, left_s)
            elif self._said != reason:  # once, not at every attempt of a long night
                self._said = reason
                log.warning("no link to %s (%s); next attempt in %.1f s", self._config.server, reason, pause_s)
            await self._session.wakeup.wait_for(lambda: self._session.complete, pause_s)

    async def _renew(self, error: SequenceError) -> str:
        """Begin another session: server and sensor do not agree on what was sent in this one.

        Without a spool, the process's next start does.
        """
        if self._renewed or not self._patient:
            raise error
        self._renewed = True
        session = uuid.uuid4().hex
        await self._session.backlog.renew(session)
        self._session.id = session
        return f"{error}; going on in another session"

    def _unavailable(self, reason: str) -> ServerUnavailableError:
        server = self._config.server
        return ServerUnavailableError(
            f"no server answers at {server} ({reason}): start one there "
            f"(latentwire server --listen {self._dialer.servers.now}), or give another address with --server"
        )

    async def _one_stream(self, begun_s: float) -> str:
        """Run one stream to its end; returns why it ended, raises if there is no use in another."""
        timeout_s = WELCOME_TIMEOUT_S
        if not self._welcomes and not self._patient:
            left_s = begun_s + self._config.connect_timeout_s - self._clock()
            share_s = self._config.connect_timeout_s / len(
                self._config.servers
            )  # one that is silent leaves time for others
            timeout_s = min(timeout_s, share_s, max(0.1, left_s))
        link: _Link | None = None
        try:
            async with await self._dialer.open(self._config.keepalive_s) as channel:
                call = SensorsStub(channel).Stream(None, metadata=self._dialer.metadata)
                try:
                    link = await self._greet(call, timeout_s)
                    await self._serve(link)
                finally:
                    self.connected = False
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            refused = refusal(error, self._dialer.servers.now)
            if refused is not None:
                raise refused from None
            return " ".join((error.details() or error.code().name).split())[:200]
        except TimeoutError:
            return "no answer in time"
        except _LinkLost as lost:
            return str(lost)
        finally:
            if link is None or link.draining:  # one that was merely cut off knows best where to go on
                self._dialer.servers.move()
        return "the server closed the stream"

    async def _greet(self, call: Call, timeout_s: float) -> _Link:
        """Hello and Welcome."""
        hello = self._session.hello()
        async with asyncio.timeout(timeout_s):
            await _write(call, hello)
            welcome = await self._read(call)
        if not isinstance(welcome, m.Welcome):
            raise MalformedMessageError("the server's first message is no welcome")
        self._session.limits = welcome.limits
        if self._welcomes:
            self._ledger.reconnects += 1
            log.warning("connected again, to %s, at image %d", self._dialer.servers.now, welcome.next_sequence)
        self._welcomes += 1
        self.connected = True
        self._said = ""
        cursor = self._session.window.resume_at(welcome.next_sequence)
        self._session.wakeup.notify()
        for observer in self._observers:
            observer.connected(self._clock())
        return _Link(call, cursor, {point.id for point in hello.operating_points}, hello.sensor_digest)

    async def _serve(self, link: _Link) -> None:
        """Read and write until the stream ends."""
        reading = asyncio.create_task(self._read_all(link))
        writing = asyncio.create_task(self._write_all(link))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()  # raises if it was no orderly half-close
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await reading
            await reading
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            for observer in self._observers:
                observer.lost(self._clock())

    async def _write_all(self, link: _Link) -> None:
        """Send all there is to send; half-close when nothing more is to come on this stream."""
        try:
            while not link.closed:
                wait_s = min(DROP_REPORT_INTERVAL_S, self._send_in_s() or DROP_REPORT_INTERVAL_S)
                await self._session.wakeup.wait_for(lambda: self._has_work(link), wait_s)
                message = self._next(link)
                if message is not None:
                    await _write(link.call, message)
                elif self._is_done(link):
                    link.closed = True
                    await link.call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.Event().wait()  # the stream is over; the reader learns why, and ends us

    def _has_work(self, link: _Link) -> bool:
        session = self._session
        unsent = link.cursor < session.window.next_sequence  # a new point goes before the message that needs it
        work = self._send_in_s() <= 0 if unsent else session.tuning.name.id not in link.announced
        return bool(session.refusals) or (work and not link.draining) or self._is_done(link)

    def _send_in_s(self) -> float:
        return 0.0 if self._pace is None else self._pace.send_in_s(self._clock())

    def _is_done(self, link: _Link) -> bool:
        if self._session.complete:
            return True
        return link.draining and self._session.window.first_sequence >= link.cursor

    def _next(self, link: _Link) -> m.FromSensor | None:
        """What is to be sent now, marked as sent; None for nothing."""
        session = self._session
        if session.refusals:
            return session.refusals.popleft()
        report = self._drop_report(link)
        if report is not None or link.draining:
            return report
        message = session.window.at(link.cursor)
        if message is not None and self._send_in_s() > 0:
            return None
        point = session.tuning.name if message is None else message.point
        if point.id not in link.announced:
            link.announced.add(point.id)
            return said(point, link.sensor_digest)
        if message is None:
            return None
        now_s = self._clock()
        if message.sent_s is None:
            message.sent_s = now_s
        for observer in self._observers:
            observer.sent(message, now_s)
        link.cursor = message.end
        return message.batch

    def _drop_report(self, link: _Link) -> m.DropReport | None:
        """Running totals, if they changed: once a second at most, and before the stream is closed."""
        now_s = self._clock()
        if now_s - link.reported_s < DROP_REPORT_INTERVAL_S and not self._is_done(link):
            return None
        unsent = self._ledger.unsent()
        if unsent == link.reported:
            return None
        link.reported, link.reported_s = unsent, now_s
        return m.DropReport(unsent)

    async def _read_all(self, link: _Link) -> None:
        """Take in what the server sends until it ends the stream."""
        while True:
            try:
                message = await self._read(link.call)
            except _LinkLost:
                if link.closed:
                    return
                raise
            await self._take(link, message)

    async def _take(self, link: _Link, message: m.FromServer) -> None:
        match message:
            case m.Results():
                await self._results(message)
            case m.BatchRefused():
                await self._recorder.ready()
                log.warning("images from %d on are refused: %s", message.first_sequence, message.error)
                refused = self._session.window.resolve(message.first_sequence, message.images)
                if refused:
                    refusal_of = error_named(f"{message.error}: {message.message}") or ProtocolError(message.message)
                    self._session.failed(refusal_of, refused[0].message.point)
                self._tell_answered(refused)
                self._record(partial(self._ledger.refused, refused, message.error))
            case m.SetOperatingPoint() | m.SetRateControl():
                self._commands.put(message)
            case m.Drain():
                log.warning("the server is going away (%s); finishing what is in flight", message.reason)
                link.draining = True
            case m.Welcome():
                raise MalformedMessageError("the server sent a second welcome")
        self._session.wakeup.notify()

    async def _results(self, results: m.Results) -> None:
        received_s = self._clock()
        classes = len(self._session.bundle.manifest.classes)
        if max(results.labels) >= classes:
            raise MalformedMessageError(f"a result's label is {max(results.labels)}; the bundle has {classes} classes")
        if not all(0 <= p <= 1.001 for p in results.probabilities):
            raise MalformedMessageError("a result's probability is not between 0 and 1")
        await self._recorder.ready()
        window = self._session.window
        images = window.resolve(results.first_sequence, len(results.labels))
        self._ledger.duplicates = window.duplicates
        self._backoff.reset()
        self._renewed = False
        if images:
            self._session.answered(images[0].message.point)
        self._tell_answered(images)
        places = [image.sequence - results.first_sequence for image in images]
        labels = [results.labels[place] for place in places]
        probabilities = [results.probabilities[place] for place in places]
        self._record(partial(self._ledger.answered, images, labels, probabilities, received_s))

    def _tell_answered(self, images: Sequence[Unanswered]) -> None:
        now_s = self._clock()
        for observer in self._observers:
            observer.answered(images, now_s)

    def _record(self, write: Callable[[], None]) -> None:
        """Have it written down; then all that is resolved by now is."""
        self._recorder.put(write, self._session.window.first_sequence)

    async def _read(self, call: Call) -> m.FromServer:
        proto = await call.read()
        if not isinstance(proto, pb.ServerMessage):
            raise _LinkLost("the server closed the stream")
        return from_server_from_proto(proto)


async def _write(call: Call, message: m.FromSensor) -> None:
    await call.write(from_sensor_to_proto(message))

"""One live stream of a sensor after its hello: batches in, results in order out.

Two tasks share a list of replies. The reader admits a batch, hands it to the batcher and appends the reply
that will come; the writer takes replies from the front, waits for each, records it in the session and writes
it. Whatever ends the stream, all that was admitted is answered into the session, where a sensor that comes
back finds it.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import grpc

from edge_server.batcher import Batcher
from edge_server.bundle_library import BundleLibrary
from edge_server.commands import Measured
from edge_server.pipeline import Answered, Job, ServedPoint
from edge_server.registry import Link, Sensor
from edge_server.result_sink import ResultSink
from edge_server.sessions import Remembered
from edge_server.totals import Totals
from edge_server.traces import begin
from latentwire import messages as m
from latentwire import wire
from latentwire.errors import CodecError, LatentwireError, MalformedMessageError, UnknownOperatingPointError
from latentwire.tracing import Tracing
from latentwire.v1 import stream_pb2

if TYPE_CHECKING:
    StreamContext = grpc.aio.ServicerContext[stream_pb2.SensorMessage, stream_pb2.ServerMessage]

FLUSH_TIMEOUT_S = 10.0  # for a sensor that does not read its last results
ANNOUNCEMENTS_PER_S = 20.0  # of one stream, each of which takes milliseconds to derive; faster ones wait
ANNOUNCEMENTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Core:
    """What all streams share."""

    library: BundleLibrary
    batcher: Batcher[Job, Answered]
    tables: Executor  # derives operating points; no worker does, so that no sensor's hello delays batches
    limits: m.Limits
    max_operating_points: int
    fair_images: int  # of one stream that wait for a worker or are in work: a greedy one fills no queue
    sink: ResultSink | None = None
    totals: Totals = field(default_factory=Totals)
    tracing: Tracing | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """A reply that is still in work."""

    job: Job
    answer: asyncio.Future[Answered]


_Reply = _Pending | stream_pb2.ServerMessage


class Connection:
    """A sensor's live stream."""

    def __init__(self, core: Core, sensor: Sensor, points: dict[int, ServedPoint], context: "StreamContext") -> None:
        """``points`` are those that the hello announced, by the sensor's ids, the current one last."""
        self.peer = context.peer()
        self.finished = asyncio.Event()
        self._core = core
        self._sensor = sensor
        self._points = points
        self._bundle = points[next(reversed(points))].bundle  # of points that name none
        self._context = context
        self._replies: deque[tuple[_Reply, int]] = deque()
        self._unanswered = 0  # images of the replies
        self._closed = False  # no reply will be appended any more
        self._changed = asyncio.Event()  # a reply has become ready, or closed
        self._room = asyncio.Event()
        self._room.set()
        self._working = 0  # images that wait for a worker, or are in work
        self._fair = asyncio.Event()  # there may be more
        self._fair.set()
        self._announce_s = -math.inf  # when one more announcement would be in step with the pace
        self._end: asyncio.Future[LatentwireError] = asyncio.get_running_loop().create_future()
        self._flush_at_end = True
        self._writing = False  # a message is on its way: gRPC takes no status until it is through
        self._halted = False  # nothing more is to be written
        self._kept: asyncio.Future[Answered] | None = None  # the last batch's answer, where there is a sink

    @property
    def served(self) -> ServedPoint | None:
        """What the sensor codes at now."""
        return self._sensor.served

    def send(self, message: m.FromServer) -> None:
        """Queue a command or notice to the sensor."""
        self._append(wire.from_server_to_proto(message), 0)

    def resend(self, remembered: Remembered) -> None:
        """Queue an answer that was given before."""
        self._append(stream_pb2.ServerMessage.FromString(remembered.wire), remembered.images)

    def end(self, error: LatentwireError, *, flush: bool) -> None:
        """End the stream with ``error``; ``flush`` writes what was accepted first."""
        if not self._end.done():
            self._flush_at_end = flush
            self._end.set_result(error)

    async def run(self, incoming: AsyncIterator[stream_pb2.SensorMessage], hello: m.Hello, older: Link | None) -> None:
        """Serve the stream until the sensor closes its side; raises the LatentwireError that ends it earlier.

        ``older`` is the same session's former stream, if it has not yet finished.
        """
        reader = asyncio.create_task(self._read(incoming, hello, older))
        writer = asyncio.create_task(self._write())
        causes: set[asyncio.Future[None] | asyncio.Future[LatentwireError]] = {reader, writer, self._end}
        try:
            await asyncio.wait(causes, return_when=asyncio.FIRST_COMPLETED)
            reader.cancel()
            self._close()
            if not self._end.done() or self._flush_at_end:
                await asyncio.wait({writer}, timeout=FLUSH_TIMEOUT_S)
        finally:
            errors = await self._settle(reader, writer, older)
        # As long as a sensor takes that does not read, or its link to end: a status that is sent before is not sent,
        # and the stream stays open for ever. All else is over by now.
        await asyncio.wait({writer})
        if self._end.done():
            errors.append(self._end.result())
        if errors:
            raise errors[0]

    async def _settle(
        self, reader: "asyncio.Task[None]", writer: "asyncio.Task[None]", older: Link | None
    ) -> list[BaseException]:
        """Answer what was admitted into the session, whether or not the sensor is there to read it.

        Returns the errors that the two tasks ended with.
        """
        reader.cancel()
        self._halted = True
        if not self._writing:
            writer.cancel()
        self._close()
        try:
            await asyncio.wait({reader} if self._writing else {reader, writer})
            if older is not None:
                await older.finished.wait()
            with contextlib.suppress(LatentwireError):  # a decoder that failed: these images come again
                while await self._next_reply() is not None:
                    pass
        finally:
            self._replies.clear()
            if self._sensor.link is self:
                self._sensor.link = None
                self._sensor.commands.stream_ended(self._sensor.name, for_good=False)
            self.finished.set()
        ended = [task.exception() for task in (writer, reader) if task.done() and not task.cancelled()]
        return [error for error in ended if error is not None]

    def _close(self) -> None:
        self._closed = True
        self._changed.set()

    def _append(self, reply: _Reply, images: int) -> None:
        if self._closed:
            return
        self._replies.append((reply, images))
        self._unanswered += images
        if self._unanswered >= self._core.limits.max_unanswered_images:
            self._room.clear()
        if isinstance(reply, _Pending):
            reply.answer.add_done_callback(self._wake_writer)
        else:
            self._changed.set()

    def _wake_writer(self, _: object) -> None:
        self._changed.set()

    async def _read(
        self, incoming: AsyncIterator[stream_pb2.SensorMessage], hello: m.Hello, older: Link | None
    ) -> None:
        if older is not None:  # until it has answered what it admitted, nobody knows what comes next
            await older.finished.wait()
        lost = self._sensor.session.resume(hello.next_sequence)
        self.send(m.Welcome(self._sensor.session.next_sequence, self._core.limits))
        for remembered in lost:
            self.resend(remembered)
        for command in self._sensor.commands.unanswered():
            self.send(command)
        async for proto in incoming:
            match message := wire.from_sensor_from_proto(proto, self._core.limits):
                case m.LatentBatch():
                    await self._take(message)
                case m.OperatingPointName():
                    await self._announce(message)
                case m.CommandRefused():
                    self._sensor.commands.refused(message)
                    self._sensor.rate_control.refused(message)
                case m.RateControlState():
                    self._sensor.rate_control.said(message)
                case m.DropReport():
                    self._sensor.dropped = message.dropped
                case m.Hello():
                    raise MalformedMessageError("a stream has one hello: open another stream")

    async def _take(self, batch: m.LatentBatch) -> None:
        served = self._points.get(batch.operating_point)
        if served is None:
            raise UnknownOperatingPointError(
                f"a batch names operating point {batch.operating_point}, not announced on this stream"
            )
        most = served.point.codec.most_images
        if batch.images > most:
            raise MalformedMessageError(
                f"a message of this bundle carries at most {most} images, not {batch.images}: send them in several"
            )
        known = self._sensor.session.admit(batch.first_sequence, batch.images)
        received_s = time.monotonic()
        if not self._room.is_set():
            await self._room.wait()
        if known is None:
            if not self._fair.is_set():
                await self._fair.wait()
            traced = None
            if (tracing := self._core.tracing) is not None:
                traced = begin(tracing, self._sensor.name, self._sensor.session_id, served, batch, received_s)
            job = Job(served, batch, traced)
            answer = await self._core.batcher.submit(job, batch.images)
            self._working += batch.images
            if self._working >= self._core.fair_images:
                self._fair.clear()
            answer.add_done_callback(partial(self._worked, batch.images, received_s))
            if self._core.sink is not None:
                sensor = self._sensor
                answer = self._core.sink.kept(sensor.name, sensor.session_id, job, answer, self._kept)
                self._kept = answer
            self._append(_Pending(job, answer), batch.images)
            return
        self._core.totals.images_known += batch.images
        for remembered in known:
            self.resend(remembered)

    def _worked(self, images: int, received_s: float, _: object) -> None:
        """The batcher has answered a batch."""
        self._core.totals.message_seconds.observe(time.monotonic() - received_s)
        self._working -= images
        if self._working < self._core.fair_images:
            self._fair.set()

    async def _announce(self, name: m.OperatingPointName) -> None:
        loop = asyncio.get_running_loop()
        earliest_s = loop.time() - ANNOUNCEMENTS_AT_ONCE / ANNOUNCEMENTS_PER_S
        self._announce_s = max(self._announce_s, earliest_s) + 1 / ANNOUNCEMENTS_PER_S
        await asyncio.sleep(max(0.0, self._announce_s - loop.time()))
        if name.sensor_digest:
            await asyncio.to_thread(self._core.library.pipeline_of, name, self._bundle)
        served = await loop.run_in_executor(self._core.tables, self._core.library.verify_one, name, self._bundle)
        self._points.pop(name.id, None)
        self._points[name.id] = served
        while len(self._points) > self._core.max_operating_points:
            del self._points[next(iter(self._points))]
        self._sensor.announced(name, served)
        self._sensor.commands.announced(name, served)

    async def _write(self) -> None:
        while not self._halted and (reply := await self._next_reply()) is not None:
            self._writing = True
            try:
                await self._context.write(reply)
            except grpc.aio.BaseError:  # the stream is cut; the reader ends too, and the rest is settled
                return
            finally:
                self._writing = False

    async def _next_reply(self) -> stream_pb2.ServerMessage | None:
        """The next reply in order, recorded in the session; None when there will be none.

        A reply leaves the list only with its answer recorded, so this may be cancelled and called again.
        """
        while not self._replies or not _is_ready(self._replies[0][0]):
            if self._closed and not self._replies:
                return None
            self._changed.clear()
            await self._changed.wait()
        reply, images = self._replies[0]
        if isinstance(reply, _Pending):
            reply = self._record(reply)
        self._replies.popleft()
        self._unanswered -= images
        if self._unanswered < self._core.limits.max_unanswered_images:
            self._room.set()
        return reply

    def _record(self, pending: _Pending) -> stream_pb2.ServerMessage:
        """Put an answer into the session and the counts; raises what ended the whole micro-batch."""
        batch, totals, traced = pending.job.batch, self._core.totals, pending.job.traced
        try:
            answered = pending.answer.result()
        except CodecError as error:
            refused = m.BatchRefused(batch.first_sequence, batch.images, error.error_name, str(error))
            proto = wire.from_server_to_proto(refused)
            self._sensor.refused(refused, proto.SerializeToString())
            totals.images_refused[error.error_name] += batch.images
            if traced is not None:
                traced.end(time.monotonic(), error.error_name)
            return proto
        proto = wire.from_server_to_proto(answered.results)
        measured = Measured(batch.operating_point, batch.images, 8 * len(batch.payload), answered.refined)
        self._sensor.answered(answered.results, measured, proto.SerializeToString())
        totals.answered(pending.job.served, batch.images, answered.refined, len(batch.payload))
        if traced is not None:
            traced.end(time.monotonic())
        return proto


def _is_ready(reply: _Reply) -> bool:
    return not isinstance(reply, _Pending) or reply.answer.done()

"""The ``Sensors`` service: takes a stream's hello and hands the stream to a ``Connection``."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from edge_server.connection import Connection, Core
from edge_server.pipeline import ServedPoint
from edge_server.registry import Link, Registry, Sensor
from edge_server.rights import check_speaks_for
from edge_server.status import or_refuse
from edge_server.totals import StreamClass
from latentwire import messages as m
from latentwire import wire
from latentwire.errors import (
    LatentwireError,
    MalformedMessageError,
    ProtocolError,
    ProtocolVersionError,
    ServerUnavailableError,
    SupersededError,
)
from latentwire.v1 import stream_pb2, stream_pb2_grpc

if TYPE_CHECKING:
    from edge_server.connection import StreamContext

log = logging.getLogger("latentwire.server")


class SensorsService(stream_pb2_grpc.SensorsServicer):
    """Streams of sensors."""

    def __init__(self, core: Core, registry: Registry, hello_timeout_s: float) -> None:
        """Serve all streams with what is in ``core``."""
        self._core = core
        self._registry = registry
        self._hello_timeout_s = hello_timeout_s
        self._live: set[Connection] = set()
        self._draining = ""

    async def Stream(  # type: ignore[override]  # the stub has no place for the read/write style of grpc.aio
        self, request_iterator: AsyncIterator[stream_pb2.SensorMessage], context: "StreamContext"
    ) -> None:
        """One stream of one sensor, from its hello to its end."""
        await or_refuse(context, self._noted(self._serve(_parsed(request_iterator), context), context))

    def streams(self) -> Counter[StreamClass]:
        """Open streams, by the class of what they are coded with now."""
        served = [connection.served for connection in self._live]
        return Counter(self._core.totals.class_of(point) for point in served if point is not None)

    async def drain(self, reason: str, grace_s: float) -> None:
        """Tell every sensor to leave, wait ``grace_s``, then end the streams; all accepted is answered."""
        self._draining = reason
        for connection in list(self._live):
            connection.send(m.Drain(reason))
        await self._until_gone(grace_s)
        for connection in list(self._live):
            connection.end(ServerUnavailableError(f"the server is going away: {reason}; reconnect"), flush=True)
        await self._until_gone(None)

    async def _until_gone(self, timeout_s: float | None) -> None:
        if self._live:
            waits = [asyncio.create_task(connection.finished.wait()) for connection in self._live]
            _, late = await asyncio.wait(waits, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _noted(self, stream: Awaitable[None], context: "StreamContext") -> None:
        """Await a stream; how it ended is counted, and logged where it was refused."""
        reason = "cut"
        try:
            await stream
            reason = "closed"
        except LatentwireError as error:
            reason = error.error_name
            log.warning("stream ended peer=%s error=%s message=%r", context.peer(), reason, str(error))
            raise
        except grpc.aio.BaseError:
            raise
        except Exception:
            reason = "InternalError"
            raise
        finally:
            self._core.totals.streams_ended[reason] += 1

    async def _serve(self, incoming: AsyncIterator[stream_pb2.SensorMessage], context: "StreamContext") -> None:
        hello, served = await self._admit(incoming)
        sensor, former = self._registry.claim(hello.sensor, hello.session, hello.next_sequence)
        sensor.announced(hello.operating_points[-1], served[-1])
        for name, point in zip(hello.operating_points, served, strict=True):
            sensor.commands.announced(name, point)
        points = {name.id: point for name, point in zip(hello.operating_points, served, strict=True)}
        connection = Connection(self._core, sensor, points, context)
        older = self._take_over(sensor, former, connection, hello)
        self._live.add(connection)
        self._core.totals.streams_opened += 1
        try:
            await connection.run(incoming, hello, older)
        finally:
            self._live.discard(connection)
            log.info("sensor left name=%s session=%s peer=%s", hello.sensor, hello.session, connection.peer)

    async def _admit(self, incoming: AsyncIterator[stream_pb2.SensorMessage]) -> tuple[m.Hello, list[ServedPoint]]:
        """A hello that can be served, and the operating points it announces, verified."""
        hello = await self._hello(incoming)
        check_speaks_for(hello.sensor)
        self._check(hello)
        await asyncio.to_thread(self._core.library.load, hello)  # not where tables are derived: no stream waits there
        loop = asyncio.get_running_loop()
        served = await loop.run_in_executor(self._core.tables, self._core.library.verify, hello)
        self._refuse_when_draining()
        return hello, served

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise ServerUnavailableError(f"the server is going away: {self._draining}; reconnect")

    def _take_over(self, sensor: Sensor, former: Sensor | None, connection: Connection, hello: m.Hello) -> Link | None:
        """Put the new stream in place of any older one of its name; returns the same session's older one."""
        older = sensor.link
        if older is not None:
            older.end(ProtocolError(f"a newer stream of sensor {sensor.name!r} took this one's place"), flush=False)
        if former is not None and former.link is not None:
            taken = f"another process took the name {sensor.name!r}; give each sensor its own --name"
            former.link.end(SupersededError(taken), flush=False)  # or the two would take it from each other for ever
        if former is not None:
            former.commands.stream_ended(former.name, for_good=True)
        if older is not None:  # a command that was sent on it may be lost
            sensor.commands.stream_ended(sensor.name, for_good=False)
        sensor.link = connection
        sensor.peer = connection.peer
        log.info(
            "sensor joined name=%s session=%s peer=%s lacks_from=%d software=%r",
            hello.sensor, hello.session, connection.peer, hello.next_sequence, hello.software,
        )  # fmt: skip
        return older

    async def _hello(self, incoming: AsyncIterator[stream_pb2.SensorMessage]) -> m.Hello:
        try:
            async with asyncio.timeout(self._hello_timeout_s):
                proto = await anext(incoming)
        except TimeoutError:
            raise MalformedMessageError(f"no hello came within {self._hello_timeout_s:g} s") from None
        except StopAsyncIteration:
            raise MalformedMessageError("the stream was closed without a hello") from None
        if proto.WhichOneof("message") != "hello":
            raise MalformedMessageError("a stream begins with a hello")
        version = proto.hello.protocol_version
        if version != m.PROTOCOL_VERSION:  # before the rest is read: another version may say it otherwise
            raise ProtocolVersionError(
                f"the sensor speaks protocol version {version}, the server {m.PROTOCOL_VERSION}: "
                "install the same release on both sides"
            )
        hello = wire.from_sensor_from_proto(proto, self._core.limits)
        assert isinstance(hello, m.Hello)
        return hello

    def _check(self, hello: m.Hello) -> None:
        """Refuse a sensor that cannot be served, before any work is done for it."""
        self._refuse_when_draining()
        if len(hello.operating_points) > self._core.max_operating_points:
            raise MalformedMessageError(
                f"a hello names at most {self._core.max_operating_points} operating points: announce the others later"
            )


async def _parsed(incoming: AsyncIterator[stream_pb2.SensorMessage]) -> AsyncIterator[stream_pb2.SensorMessage]:
    """The stream's messages; bytes that are none, over which gRPC's own parser stumbles, are refused by name."""
    try:
        async for proto in incoming:
            yield proto
    except DecodeError as error:
        raise MalformedMessageError(f"the bytes are no message of a sensor: {error}") from None

"""A server that does as a test tells it, one script a stream, and remembers all it was sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc

from latentwire import messages as m
from latentwire.v1 import stream_pb2 as pb
from latentwire.v1 import stream_pb2_grpc
from latentwire.wire import from_sensor_from_proto, from_server_to_proto

LIMITS = m.Limits()


class FakeStream:
    """One stream, as its script sees it."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self.context = context
        self.hello: m.Hello
        self.got: list[m.FromSensor] = []

    @property
    def batches(self) -> list[m.LatentBatch]:
        return [message for message in self.got if isinstance(message, m.LatentBatch)]

    async def read(self) -> m.FromSensor | None:
        """The next message; None when the sensor has closed its half."""
        proto = await self.context.read()
        if proto is grpc.aio.EOF:
            return None
        self.got.append(from_sensor_from_proto(proto, LIMITS))
        return self.got[-1]

    async def send(self, message: m.FromServer) -> None:
        await self.context.write(from_server_to_proto(message))

    async def greet(self, next_sequence: int | None = None, limits: m.Limits = LIMITS) -> None:
        if next_sequence is None:
            next_sequence = self.hello.next_sequence
        await self.send(m.Welcome(next_sequence, limits))

    async def batch(self) -> m.LatentBatch | None:
        """The next batch; None when there is none."""
        while not isinstance(message := await self.read(), m.LatentBatch):
            if message is None:
                return None
        return message

    async def answer(self, batch: m.LatentBatch) -> None:
        """Each image's label is its sequence modulo 4, its probability a half."""
        labels = tuple((batch.first_sequence + image) % 4 for image in range(batch.images))
        await self.send(m.Results(batch.first_sequence, labels, (0.5,) * batch.images))

    async def answer_all(self) -> None:
        while (batch := await self.batch()) is not None:
            await self.answer(batch)

    async def cut(self) -> None:
        await self.context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the test")

    async def refuse(self, code: grpc.StatusCode, details: str) -> None:
        await self.context.abort(code, details)


Script = Callable[[FakeStream], Awaitable[None]]


async def honest(stream: FakeStream) -> None:
    """Answer every batch as it comes."""
    await stream.greet()
    await stream.answer_all()


class FakeServer(stream_pb2_grpc.SensorsServicer):
    """Runs the scripts in turn, the last one for all streams from there on."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts or (honest,)
        self.streams: list[FakeStream] = []
        self.failures: list[BaseException] = []

    async def Stream(
        self, request_iterator: AsyncIterator[pb.SensorMessage], context: grpc.aio.ServicerContext
    ) -> None:
        stream = FakeStream(context)
        self.streams.append(stream)
        script = self.scripts[min(len(self.streams), len(self.scripts)) - 1]
        hello = await stream.read()
        assert isinstance(hello, m.Hello)
        stream.hello = hello
        try:
            await script(stream)
        except AssertionError as error:
            self.failures.append(error)
            raise


@asynccontextmanager
async def serving(*scripts: Script) -> AsyncIterator[tuple[FakeServer, str]]:
    """A fake server and its address; what a script asserted in vain fails the test."""
    fake = FakeServer(*scripts)
    server = grpc.aio.server()
    stream_pb2_grpc.add_SensorsServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield fake, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        await asyncio.sleep(0)
    if fake.failures:
        raise fake.failures[0]

"""A server that does as a test tells it, one script a stream, and sensors to run against it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import grpc
from PIL import Image

from edge_sensor import SensorConfig, SensorReport, run_sensor
from latentwire import messages as m
from latentwire.v1 import stream_pb2 as pb
from latentwire.v1 import stream_pb2_grpc
from latentwire.wire import from_sensor_from_proto, from_server_to_proto

LIMITS = m.Limits()
IMAGES = 20


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


def make_world(folder: Path) -> None:
    """A bundle in ``folder/bundle`` and 20 images in ``folder/images``, a folder a class."""
    factories.make_bundle(folder / "bundle", variants=("full", "small"))
    images, labels = factories.make_images(IMAGES)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "images" / factories.CLASSES[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(path)


class Runner:
    """Runs sensors on what was made, and reads what they wrote."""

    def __init__(self, made: Path, folder: Path) -> None:
        self.results = folder / "results.jsonl"
        self.config = SensorConfig(
            bundle=made / "bundle",
            server="127.0.0.1:1",
            source=str(made / "images"),
            name="mast",
            results=self.results,
            limit=100,
            images_per_message=8,
            delay_s=5.0,
            max_backoff_s=0.2,
            connect_timeout_s=5.0,
            progress=False,
        )

    async def run(self, server: str, **settings: Any) -> SensorReport:
        return await asyncio.to_thread(run_sensor, replace(self.config, server=server, **settings))

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]

    def answered_once(self, images: int) -> None:
        """Every image up to ``images`` has one line, with the answer that was given to it."""
        rows = self.rows()
        assert sorted(row["sequence"] for row in rows) == list(range(images))
        assert all(row["label_index"] == row["sequence"] % 4 for row in rows)


def sent_batches(fake: FakeServer) -> dict[int, m.LatentBatch]:
    """All batches of all streams by their first sequence: what is sent again must be as it was."""
    batches: dict[int, m.LatentBatch] = {}
    for stream in fake.streams:
        for batch in stream.batches:
            assert batches.setdefault(batch.first_sequence, batch) == batch
    return batches

"""A sensor played by hand, message by message, against a real server; and that server, on a free port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import factories
import grpc
import numpy as np

from edge_server import Server, ServerConfig
from latentwire import messages as m
from latentwire import wire
from latentwire.bundle import Bundle
from latentwire.operating_point import OperatingPoint, OperatingPoints
from latentwire.tls import Access
from latentwire.v1 import stream_pb2, stream_pb2_grpc


@asynccontextmanager
async def serving(bundle: Path, **settings: object) -> AsyncIterator[tuple[Server, str]]:
    """A running server and its address."""
    settings = {"decoder_threads": 1, "grace_s": 0.2, "listen": "127.0.0.1:0"} | settings
    server = Server(ServerConfig(bundle, **settings))  # type: ignore[arg-type]
    port = await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop()


class RawSensor:
    """One stream. Batches are made from ``factories.make_images(images, seed=first_sequence)``."""

    def __init__(
        self, address: str, bundle: Bundle, name: str = "cam", session: str = "s1", access: Access | None = None
    ) -> None:
        self.bundle = bundle
        self.name = name
        self.session = session
        self._points = OperatingPoints(bundle)
        access = access or Access()
        credentials = access.credentials()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials.get())
        self._call = stream_pb2_grpc.SensorsStub(self._channel).Stream(metadata=access.metadata)
        self.point: OperatingPoint
        self.point_id = 0

    async def __aenter__(self) -> "RawSensor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Tear the stream down without a word."""
        self._call.cancel()
        await self._channel.close()

    def announcement(
        self, rate_scale: float = 2.0, model: str = "gaussian", variant: str = "full", command_id: int = 0
    ) -> m.OperatingPointName:
        """The next operating point; batches are coded at it from here on."""
        self.point = self._points.get(variant, model, rate_scale)
        self.point_id += 1
        return m.OperatingPointName(self.point_id, variant, model, rate_scale, self.point.digest, command_id)

    def hello(self, next_sequence: int = 0, **fields: object) -> m.Hello:
        """A hello that the server accepts, but for ``fields``."""
        hello = m.Hello(
            sensor=self.name,
            session=self.session,
            model_id=self.bundle.manifest.model_id,
            bundle_digest=self.bundle.digest,
            operating_points=(self.announcement(),),
            next_sequence=next_sequence,
        )
        return replace(hello, **fields)  # type: ignore[arg-type]

    async def join(self, next_sequence: int = 0, **fields: object) -> m.Welcome:
        """Say hello and hear the welcome."""
        await self.send(self.hello(next_sequence, **fields))
        welcome = await self.hear()
        assert isinstance(welcome, m.Welcome), welcome
        return welcome

    def batch(self, first: int, images: int) -> m.LatentBatch:
        """Images ``first`` to ``first + images - 1``, coded at the present operating point."""
        pixels, _ = factories.make_images(images, seed=first)
        latent = factories.make_latents(pixels)
        encoded = self.point.codec.encode(latent, self.point.codec.choose(latent))
        return m.LatentBatch(first, images, self.point_id, encoded.payload, encoded.crc32)

    async def send(self, *messages: m.FromSensor) -> None:
        """Send messages."""
        for message in messages:
            await self._call.write(wire.from_sensor_to_proto(message))

    async def send_raw(self, proto: stream_pb2.SensorMessage) -> None:
        """Send what no ``messages`` class can say."""
        await self._call.write(proto)

    async def hear(self) -> m.FromServer | None:
        """The server's next message, None when it closed the stream; raises AioRpcError when it refused."""
        proto = await self._call.read()
        if not isinstance(proto, stream_pb2.ServerMessage):
            return None
        return wire.from_server_from_proto(proto)

    async def hear_results(self, first: int, images: int) -> m.Results:
        """The results of such a batch, checked."""
        results = await self.hear()
        assert isinstance(results, m.Results), results
        assert results.first_sequence == first
        assert results.labels == truth(first, images)
        assert all(0 < p <= 1 for p in results.probabilities)
        return results

    async def close(self) -> None:
        """Send no more."""
        await self._call.done_writing()

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        """The status and details that end the stream; messages before it are skipped."""
        try:
            while await self.hear() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return await self._call.code(), await self._call.details() or ""


def truth(first: int, images: int) -> tuple[int, ...]:
    """The labels of a batch of ``RawSensor``."""
    return tuple(np.asarray(factories.make_images(images, seed=first)[1]).tolist())

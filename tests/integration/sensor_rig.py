"""A real server and real sensors in one process, a folder of images, and a link that can be cut."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import factories
import numpy as np
from PIL import Image

from edge_sensor import SensorConfig
from edge_server import Server, ServerConfig
from latentwire.codec.bulk import Coded
from latentwire.codec.latent_codec import DecodedBatch, LatentCodec
from latentwire.errors import CodecError


def make_world(folder: Path) -> None:
    """A bundle in ``folder/bundle`` and 60 images in ``folder/images``, a folder a class."""
    factories.make_bundle(folder / "bundle", variants=("full", "small"))
    images, labels = factories.make_images(60)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "images" / factories.CLASSES[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(path)


def sensor_config(world: Path, results: Path, port: int, **settings: Any) -> SensorConfig:
    defaults: dict[str, Any] = {
        "bundle": world / "bundle",
        "server": f"127.0.0.1:{port}",
        "source": str(world / "images"),
        "name": "mast",
        "results": results,
        "progress": False,
        "max_backoff_s": 0.3,
    }
    return SensorConfig(**(defaults | settings))


@asynccontextmanager
async def serving(world: Path, port: int = 0, **settings: Any) -> AsyncIterator[int]:
    """A server on ``port``, or a free one; yields the port."""
    defaults: dict[str, Any] = {"bundle": world / "bundle", "listen": f"127.0.0.1:{port}", "decoder_threads": 1}
    server = Server(ServerConfig(**(defaults | settings)))
    port = await server.start()
    try:
        yield port
    finally:
        await server.stop(grace_s=2.0)


class CuttableLink:
    """Forwards a free port to ``target``, and cuts all that crosses it on demand."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cuts = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "CuttableLink":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.transport.abort()


@contextmanager
def decoded_by_payload() -> Iterator[dict[tuple[bytes, int], DecodedBatch]]:
    """What any codec of this process decodes, by payload and CRC."""
    seen: dict[tuple[bytes, int], DecodedBatch] = {}
    plain = LatentCodec.decode_many

    def watched(self: LatentCodec, messages: Sequence[Coded]) -> tuple[DecodedBatch, list[CodecError | None]]:
        decoded, errors = plain(self, messages)
        refined = np.concatenate([[0], np.cumsum(decoded.level > 0)])
        start = 0
        for message, error in zip(messages, errors, strict=True):
            end = start + message.images
            if error is None:
                indices = decoded.indices[refined[start] : refined[end]]
                own = (decoded.anchor[start:end], decoded.level[start:end], indices, decoded.latent[start:end])
                seen[message.payload, message.crc32] = DecodedBatch(*own)
            start = end
        return decoded, errors

    LatentCodec.decode_many = watched  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        LatentCodec.decode_many = plain  # type: ignore[method-assign]


def rows_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def check_answered_once(results: Path, images: int) -> list[dict[str, Any]]:
    """Every image 0 .. images - 1 has exactly one result, and the right class; returns the rows in order."""
    rows = sorted(rows_of(results), key=lambda row: row["sequence"])
    assert [row["sequence"] for row in rows] == list(range(images))
    assert all(row["label"] == row["truth"] for row in rows)
    return rows

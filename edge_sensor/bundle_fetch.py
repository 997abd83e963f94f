"""Fetches what a sensor lacks of a bundle, over a link that may be thin and come and go.

A file is asked for in pieces, each so large that it takes about ``PIECE_S``, with a pause as long after it. So the
download takes half of the link at most, results never wait long behind it, and a cut costs a piece: the next one goes
on where the file on disk ends, also after a restart.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc

from edge_sensor.bundle_store import BundleStore
from edge_sensor.channel import Backoff, Dialer, refusal
from latentwire.bundle import FileEntry, Manifest
from latentwire.errors import LatentwireError, MalformedMessageError, error_named
from latentwire.operating_point import OperatingPoint
from latentwire.v1 import bundles_pb2 as pb
from latentwire.v1.bundles_pb2_grpc import BundlesStub

PIECE_S = 0.5
FIRST_PIECE_BYTES = 4096
MIN_PIECE_BYTES = 1024
MAX_PIECE_BYTES = 256 * 1024
CALL_TIMEOUT_S = 60.0  # a piece takes PIECE_S, but on a link that got much thinner since the last one
REPORT_INTERVAL_S = 10.0

if TYPE_CHECKING:
    from latentwire.v1.bundles_pb2_grpc import BundlesAsyncStub

T = TypeVar("T")
Clock = Callable[[], float]

log = logging.getLogger("latentwire.sensor")


class BundleClient:
    """The server's Bundles service; every call is made again until it is answered or refused by name.

    Cancel a call to give up. ``close`` when done.
    """

    def __init__(self, dialer: Dialer, max_backoff_s: float, clock: Clock = time.monotonic) -> None:
        """``dialer`` reaches the server."""
        self._dialer = dialer
        self._backoff = Backoff(ceiling_s=max_backoff_s)
        self._clock = clock
        self._channel: grpc.aio.Channel | None = None

    async def close(self) -> None:
        """Close the channel; the next call opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def manifest(self, store: BundleStore, digest: str) -> Manifest:
        """Fetch a bundle's manifest into the store; raises what the server or the store refuses it with."""

        async def get(stub: "BundlesAsyncStub") -> pb.GetManifestResponse:
            request = pb.GetManifestRequest(bundle_digest=digest)
            return await stub.GetManifest(request, timeout=CALL_TIMEOUT_S, metadata=self._dialer.metadata)

        answer = await self._until_answered(get)
        return await asyncio.to_thread(store.add_manifest, digest, answer.manifest_json, answer.signature)

    async def file(self, store: BundleStore, digest: str, entry: FileEntry) -> None:
        """Fetch a file into the store; raises what the server or the store refuses it with."""
        size, here, reported_s = FIRST_PIECE_BYTES, await asyncio.to_thread(store.offset, entry), self._clock()
        log.info("fetching %s from byte %d of %d", entry.path, here, entry.bytes)
        while here < entry.bytes:
            begun_s = self._clock()
            data = await self._until_answered(lambda stub, o=here, s=size: self._piece(stub, entry, o, s))  # type: ignore[misc]
            here = await asyncio.to_thread(store.append, entry, data)
            taken_s = self._clock() - begun_s
            size = next_piece_bytes(size, taken_s)
            if here < entry.bytes:
                await asyncio.sleep(taken_s)  # the other half of the link is the images'
            if self._clock() - reported_s >= REPORT_INTERVAL_S:
                reported_s = self._clock()
                log.info("fetching %s: %d of %d bytes are here", entry.path, here, entry.bytes)
        await asyncio.to_thread(store.finish, digest, entry)

    async def check(self, bundle_digest: str, point: OperatingPoint) -> None:
        """Ask the server whether it would serve this operating point; raises what it refuses it with."""
        request = pb.CheckOperatingPointRequest(
            bundle_digest=bundle_digest,
            variant=point.variant,
            model=point.model,
            rate_scale=point.rate_scale,
            digest=point.digest,
        )

        async def ask(stub: "BundlesAsyncStub") -> None:
            try:
                await stub.CheckOperatingPoint(request, timeout=CALL_TIMEOUT_S, metadata=self._dialer.metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED or error_named(error.details() or ""):
                    raise
                # a server of an older release, which has one bundle and pushes none: its stream will compare

        await self._until_answered(ask)

    async def _until_answered(self, call: "Callable[[BundlesAsyncStub], Awaitable[T]]") -> T:
        while True:
            if self._channel is None:
                self._channel = await self._dialer.open()
            try:
                answer = await call(BundlesStub(self._channel))
                self._backoff.reset()
                return answer
            except grpc.aio.AioRpcError as error:
                await self.close()
                if (refused := _refused(error, self._dialer.servers.now)) is not None:
                    raise refused from None
                pause_s = self._backoff.next_s()
                log.warning("the server hands no bundle out (%s); next attempt in %.1f s", error.code().name, pause_s)
            await asyncio.sleep(pause_s)

    async def _piece(self, stub: "BundlesAsyncStub", entry: FileEntry, offset: int, size: int) -> bytes:
        """The file's next bytes from ``offset`` on, at most ``size``, at least one."""
        request = pb.GetFileRequest(sha256=entry.sha256, offset=offset, max_bytes=size)
        data = b""
        async for chunk in stub.GetFile(request, timeout=CALL_TIMEOUT_S, metadata=self._dialer.metadata):
            if chunk.offset != offset + len(data) or len(data) + len(chunk.data) > size:
                raise MalformedMessageError(f"the server hands out other bytes of {entry.path} than it was asked for")
            data += chunk.data
        if not data:
            wanted = f"the {entry.bytes} bytes of its manifest"
            raise MalformedMessageError(f"the server's {entry.path} ends before {wanted}")
        return data


def next_piece_bytes(size: int, taken_s: float) -> int:
    """How much to ask for after a piece of ``size`` bytes took so long: at most twice as much, for ``PIECE_S``."""
    fitting = int(size * min(2.0, PIECE_S / max(taken_s, 1e-3)))
    return min(max(fitting, MIN_PIECE_BYTES), MAX_PIECE_BYTES)


def _refused(error: grpc.aio.AioRpcError, server: str) -> LatentwireError | None:
    """The error by which the server refused for good; None when trying again may help."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return None
    return error_named(" ".join((error.details() or "").split())[:1024]) or refusal(error, server)

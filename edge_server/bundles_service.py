"""The ``Bundles`` service: hands sensors the part of a bundle they lack, and says what the server would decode."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from edge_server.bundle_library import BundleLibrary, Held
from edge_server.status import or_refuse, refusal
from latentwire.bundle import MANIFEST
from latentwire.errors import BundleError, BundleNotFoundError, LatentwireError, MalformedMessageError
from latentwire.messages import OperatingPointName
from latentwire.signature import read_signature
from latentwire.v1 import bundles_pb2, bundles_pb2_grpc
from latentwire.wire import DIGEST_BYTES, sha256_from_proto

if TYPE_CHECKING:
    from typing import Any

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

CHUNK_BYTES = 64 * 1024
MAX_DOWNLOADS = 64

log = logging.getLogger("latentwire.server.bundles")


class BundlesService(bundles_pb2_grpc.BundlesServicer):
    """Answers from the library; files are read a chunk at a time, off the event loop."""

    def __init__(self, library: BundleLibrary, tables: Executor) -> None:
        """``tables`` is the thread in which tables are derived."""
        self._library = library
        self._tables = tables
        self._downloads = asyncio.Semaphore(MAX_DOWNLOADS)

    async def GetManifest(
        self, request: bundles_pb2.GetManifestRequest, context: "Context"
    ) -> bundles_pb2.GetManifestResponse:
        """A bundle's manifest as it lies on disk, and its signature."""
        return await or_refuse(context, asyncio.to_thread(self._manifest, request))

    async def GetFile(
        self, request: bundles_pb2.GetFileRequest, context: "Context"
    ) -> AsyncIterator[bundles_pb2.FileChunk]:
        """A file that sensors need, from an offset on; nothing where the file has ended."""
        try:
            sha256 = sha256_from_proto(request.sha256)
            path = await asyncio.to_thread(self._library.sensor_file, sha256)
            offset, left = request.offset, request.max_bytes or None
            async with self._downloads:
                while data := await asyncio.to_thread(_read, path, offset, min(CHUNK_BYTES, left or CHUNK_BYTES)):
                    yield bundles_pb2.FileChunk(offset=offset, data=data)
                    offset += len(data)
                    if left is not None:
                        left -= len(data)
                        if left <= 0:
                            break
        except LatentwireError as error:
            await context.abort(*refusal(error))

    async def CheckOperatingPoint(
        self, request: bundles_pb2.CheckOperatingPointRequest, context: "Context"
    ) -> bundles_pb2.CheckOperatingPointResponse:
        """Whether a stream that named this operating point would be served."""
        return await or_refuse(context, self._check(request))

    def _manifest(self, request: bundles_pb2.GetManifestRequest) -> bundles_pb2.GetManifestResponse:
        held = self._asked_for(request)
        try:
            content = (held.path / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleNotFoundError(f"bundle {held.name} is gone ({error.strerror})") from None
        return bundles_pb2.GetManifestResponse(manifest_json=content, signature=read_signature(held.path))

    def _asked_for(self, request: bundles_pb2.GetManifestRequest) -> Held:
        if request.bundle_digest:
            return self._library.with_digest(sha256_from_proto(request.bundle_digest))
        return self._library.named(request.model_id) if request.model_id else self._library.all()[0]

    async def _check(self, request: bundles_pb2.CheckOperatingPointRequest) -> bundles_pb2.CheckOperatingPointResponse:
        digest = sha256_from_proto(request.bundle_digest)
        if len(request.digest) != DIGEST_BYTES:
            raise MalformedMessageError(f"a table digest has {DIGEST_BYTES} bytes, not {len(request.digest)}")
        name = OperatingPointName(1, request.variant, request.model, request.rate_scale, request.digest)
        pipeline = await asyncio.to_thread(self._library.pipeline, digest)
        await asyncio.get_running_loop().run_in_executor(self._tables, pipeline.verify, [name])
        return bundles_pb2.CheckOperatingPointResponse()


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except (OSError, OverflowError, ValueError) as error:  # an offset may be any 64-bit number
        raise BundleError(f"{path.name} cannot be read from byte {offset} on ({error})") from None

"""The ``Bundles`` service, which this release has in name only: its sensors bring their bundle."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from edge_server.status import refusal
from latentwire.errors import ControlError
from latentwire.v1 import bundles_pb2, bundles_pb2_grpc

if TYPE_CHECKING:
    from typing import Any

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

REFUSAL = ControlError("this release hands no bundles out: copy the server's bundle to the sensor")


class BundlesService(bundles_pb2_grpc.BundlesServicer):
    """Answers UNIMPLEMENTED, in a line; the generated servicer would log a traceback for every call."""

    async def GetManifest(
        self, request: bundles_pb2.GetManifestRequest, context: "Context"
    ) -> bundles_pb2.GetManifestResponse:
        """Refused."""
        await context.abort(*refusal(REFUSAL))

    async def GetFile(
        self, request: bundles_pb2.GetFileRequest, context: "Context"
    ) -> AsyncIterator[bundles_pb2.FileChunk]:
        """Refused."""
        await context.abort(*refusal(REFUSAL))
        yield bundles_pb2.FileChunk()  # never reached: it makes this the generator that a streaming method is

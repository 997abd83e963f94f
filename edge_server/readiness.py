"""Health that is true: a server says SERVING while what comes to it would be answered."""

import asyncio
import logging
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2

from edge_server.result_sink import ResultSink
from edge_server.totals import Totals
from latentwire.errors import InferenceError

INTERVAL_S = 0.5

log = logging.getLogger("latentwire.server")


class Readiness:
    """Looks every ``INTERVAL_S``; while the server is not ready, sensors that are connected stay so."""

    def __init__(
        self, servicer: health.aio.HealthServicer, services: tuple[str, ...], totals: Totals, sink: ResultSink | None,
        check: Callable[[], None],
    ) -> None:  # fmt: skip
        """``check`` runs the decoders, and raises InferenceError if one cannot; it may take seconds."""
        self.servicer = servicer
        self.ready = False
        self._stopping = False
        self._services = ("", *services)
        self._totals = totals
        self._sink = sink
        self._check = check

    async def say(self, ready: bool) -> None:
        """Tell health checks; once a stop has begun, they no longer hear."""
        self.ready = ready
        status = health_pb2.HealthCheckResponse
        for service in self._services:
            await self.servicer.set(service, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self) -> None:
        """Not serving, for good."""
        self.ready, self._stopping = False, True
        await self.servicer.enter_graceful_shutdown()

    async def run(self) -> None:
        """Until ``stop`` or cancelled."""
        while not self._stopping:
            await asyncio.sleep(INTERVAL_S)
            trouble = await self._trouble()
            if self.ready == bool(trouble) and not self._stopping:
                log.warning("not ready: %s", trouble) if trouble else log.info("ready again")
                await self.say(not trouble)

    async def _trouble(self) -> str:
        if self._sink is not None and self._sink.stuck:
            return "the file of results is stuck"
        if self._totals.failing:  # one micro-batch was, or the decoder is, and only another run can tell
            try:
                await asyncio.to_thread(self._check)
            except InferenceError as error:
                return str(error)
            self._totals.failing = False
        return ""

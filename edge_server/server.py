"""One server process: the port, the services on it, their life from listening to the last answer."""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_server.answering import answer_jobs
from edge_server.batcher import Batcher
from edge_server.bundle_library import BundleLibrary
from edge_server.bundles_service import BundlesService
from edge_server.config import ServerConfig, parse_address, parse_metrics
from edge_server.connection import Core
from edge_server.control_service import ControlService
from edge_server.decoders import decoders_of
from edge_server.listening import add_port, check_free, credentials_of, identities_of
from edge_server.open_calls import OpenCalls
from edge_server.pace import START_IMAGES
from edge_server.pipeline import Answered, Job, Pipeline
from edge_server.readiness import Readiness
from edge_server.registry import Registry
from edge_server.result_sink import ResultSink
from edge_server.rights import RightsInterceptor
from edge_server.sensors_service import SensorsService
from edge_server.stats import Clock
from edge_server.totals import Totals
from edge_server.traces import with_spans
from latentwire import __version__
from latentwire.bundle import load_bundle
from latentwire.codec.coder import in_use
from latentwire.errors import LatentwireError
from latentwire.tracing import Tracing
from latentwire.v1 import (
    bundles_pb2,
    bundles_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    stream_pb2,
    stream_pb2_grpc,
)

if TYPE_CHECKING:
    from edge_server.metrics import Present

log = logging.getLogger("latentwire.server")

SERVICES = (
    stream_pb2.DESCRIPTOR.services_by_name["Sensors"].full_name,
    control_pb2.DESCRIPTOR.services_by_name["Control"].full_name,
    bundles_pb2.DESCRIPTOR.services_by_name["Bundles"].full_name,
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
)
LAST_CALLS_GRACE_S = 2.0  # for control calls that run when the streams are gone


class Server:
    """A server that is started once and stopped once, inside one event loop."""

    def __init__(self, config: ServerConfig, clock: Clock = time.monotonic) -> None:
        """Nothing is opened yet; ``clock`` (seconds) is what rates are counted by."""
        self.config = config
        self._clock = clock
        self.metrics_port: int | None = None  # where there are metrics, once it is started
        self._stack = contextlib.AsyncExitStack()
        self._sink: ResultSink | None = None
        self._totals = Totals()
        self._readiness: Readiness
        self._registry: Registry
        self._batcher: Batcher[Job, Answered]
        self._sensors: SensorsService
        self._control: ControlService
        self._grpc: grpc.aio.Server

    async def start(self) -> int:
        """Load and warm the decoders, listen, serve; returns the port.

        Raises ListenError, CertificateError, a BundleError or an InferenceError; nothing is left open then.
        """
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.to_thread(check_free, self.config.listen)
            identities = await asyncio.to_thread(identities_of, self.config)
            credentials = await asyncio.to_thread(credentials_of, self.config)
            core = await self._core(stack)
            registry = Registry(self.config.max_sessions, self.config.limits.max_unanswered_images, self._clock)
            self._registry = registry
            self._sensors = SensorsService(core, registry, self.config.hello_timeout_s)
            self._control = ControlService(core, registry, self.config.command_timeout_s)
            calls = OpenCalls(self.config.max_streams, self.config.max_streams_a_peer)
            gate = RightsInterceptor(identities, calls, self._totals.calls_refused)
            self._grpc = grpc.aio.server(interceptors=[gate], options=_options(self.config))
            servicer = health.aio.HealthServicer()
            check = core.library.own.check
            self._readiness = Readiness(servicer, SERVICES, self._totals, self._sink, check)
            if self.config.metrics is not None:
                await self._serve_metrics(stack, self.config.metrics)
            await self._register(BundlesService(core.library, core.tables))
            port = add_port(self._grpc, self.config.listen, credentials)
            await self._grpc.start()
            await self._readiness.say(True)
            _until_closed(stack, self._readiness.run())
            self._stack = stack.pop_all()
        log.info("serving model_id=%s port=%d coder=%s", core.library.own.bundle.manifest.model_id, port, in_use())
        return port

    async def stop(self, grace_s: float | None = None, reason: str = "shutting down") -> None:
        """Say so to health checks and sensors, answer all that was accepted, then close.

        ``grace_s`` is how long sensors have to leave by themselves, by default the setting.
        """
        log.info("stopping reason=%r", reason)
        await self._readiness.stop()
        self._control.stop()
        if self._sink is not None:
            self._sink.give_up()
        await self._sensors.drain(reason, self.config.grace_s if grace_s is None else grace_s)
        await self._grpc.stop(LAST_CALLS_GRACE_S)
        await self._stack.aclose()
        log.info("stopped")

    async def _core(self, stack: contextlib.AsyncExitStack) -> Core:
        """Load the bundle and what all streams share."""
        config = self.config
        bundle = await asyncio.to_thread(load_bundle, config.bundle, "server")
        make = decoders_of(config)
        pipeline = await asyncio.to_thread(Pipeline, bundle, config.decoder_threads, make)
        folder = None if config.library is None else Path(config.library)
        library = BundleLibrary(pipeline, folder, config.decoder_threads, make_decoder=make)
        tables = ThreadPoolExecutor(1, thread_name_prefix="latentwire-tables")
        stack.callback(tables.shutdown)
        tracing: Tracing | None = None
        work: Callable[[Sequence[Job]], list[Answered | LatentwireError]] = answer_jobs
        if config.traces is not None:
            tracing = await asyncio.to_thread(Tracing, "latentwire-server", config.traces, config.trace_share)
            stack.push_async_callback(asyncio.to_thread, tracing.close)
            work = with_spans(answer_jobs)
        self._batcher = batcher = Batcher(
            self._totals.timed(work),
            max_images=config.max_batch_images,
            delay_s=config.batch_delay_s,
            max_queued_images=config.max_queued_images,
            workers=config.batches_in_work,
        )
        stack.push_async_callback(batcher.close)
        if config.results is not None:
            self._sink = ResultSink(config.results)
            stack.push_async_callback(self._sink.close)
        limits, most = config.limits, config.max_operating_points
        # As much as keeps every worker busy, and no more: what others send waits behind it.
        fair = (config.batches_in_work + 1) * (config.max_batch_images or START_IMAGES)
        return Core(library, batcher, tables, limits, most, fair, self._sink, self._totals, tracing)

    async def _serve_metrics(self, stack: contextlib.AsyncExitStack, address: str) -> None:
        """Answer Prometheus until ``stack`` is closed; raises ListenError."""
        from edge_server.metrics import metrics  # with a web server
        from latentwire.scraping import serve_scrapes

        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        listen = parse_metrics(address)
        task = _until_closed(
            stack, serve_scrapes(listen, lambda: metrics(self._totals, self._present()), port.set_result)
        )
        first: set[asyncio.Future[Any]] = {task, port}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        self.metrics_port = port.result()
        log.info("metrics at %s:%d", parse_address(listen)[0], self.metrics_port)

    def _present(self) -> "Present":
        from edge_server.metrics import Present

        return Present(
            streams=self._sensors.streams(),
            sessions=len(self._registry),
            queued_images=self._batcher.queued_images,
            results_images=None if self._sink is None else self._sink.queued_images,
            results_stuck=self._sink is not None and self._sink.stuck,
            ready=self._readiness.ready,
        )

    async def _register(self, bundles: BundlesService) -> None:
        stream_pb2_grpc.add_SensorsServicer_to_server(self._sensors, self._grpc)
        control_pb2_grpc.add_ControlServicer_to_server(self._control, self._grpc)
        bundles_pb2_grpc.add_BundlesServicer_to_server(bundles, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._readiness.servicer, self._grpc)
        reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), self._grpc)
        await self._readiness.say(False)


def _until_closed(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run ``work`` as a task until ``stack`` is closed."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
    return task


async def run_server(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then stop cleanly; prints ``listening on HOST:PORT`` when ready."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Through the loop: a plain ``finally`` does not run on SIGTERM.
        loop.add_signal_handler(number, stopping.set)
    log.info("config version=%s %s", __version__, config.described())
    server = Server(config)
    port = await server.start()
    print(f"listening on {parse_address(config.listen)[0]}:{port}", flush=True)
    await stopping.wait()
    await server.stop()


def run_server_blocking(config: ServerConfig) -> None:
    """``run_server`` for the command line: logs to stderr, returns when the server has stopped cleanly."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(run_server(config))


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.http2.bdp_probe", 0),  # its pings would have to be answered over the sensors' thin links
        ("grpc.so_reuseport", 0),  # else a second server would share a busy port without a word
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.server_handshake_timeout_ms", 30_000),  # a connection that says nothing; a TLS handshake on a thin link
        ("grpc.max_connection_idle_ms", 300_000),  # one without a call
        # Sensors on thin links ping to find a dead link early, also while they have nothing to send.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        # And the server pings them, or a stream that was cut without a word would stay connected for ever.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),  # a minute unless told, whatever the line before says
    ]

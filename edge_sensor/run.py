"""A sensor process from start to end."""

import asyncio
import logging
import random
import signal
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge_sensor.bundle_fetch import BundleClient
from edge_sensor.bundle_store import BundleStore
from edge_sensor.capture import CaptureCounts, start_capture
from edge_sensor.channel import Dialer, Servers
from edge_sensor.coder import Caps, MessageCoder, Observer
from edge_sensor.commands import Commands
from edge_sensor.config import SensorConfig
from edge_sensor.display import Display
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.ledger import Ledger, SensorReport
from edge_sensor.pipeline import Pipeline
from edge_sensor.rate_control_run import RateControlTask, Sight
from edge_sensor.recorder import Recorder
from edge_sensor.results import ResultsFile
from edge_sensor.resume import Resumed, resume
from edge_sensor.session import Session
from edge_sensor.sources import Source, open_source
from edge_sensor.spool_backlog import SpooledBacklog
from edge_sensor.spool_file import SpoolSettings
from edge_sensor.status import serve_status
from edge_sensor.stream import LinkObserver, StreamClient
from edge_sensor.traces import MessageSpans
from edge_sensor.tuner import Tuner
from edge_sensor.update import Candidate, Updater, first_candidate
from edge_sensor.vitals import Monitor
from latentwire.bundle import load_bundle
from latentwire.codec.coder import in_use
from latentwire.errors import DiskFullError
from latentwire.operating_point import OperatingPoints
from latentwire.tracing import Tracing

STOPPED = "stopped"  # why an image is dropped that was captured, but not answered when the sensor ended

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is made before the event loop runs."""

    config: SensorConfig
    store: BundleStore | None
    first: Candidate
    source: Source
    ledger: Ledger
    kept: Resumed | None
    tracing: Tracing | None


def run_sensor(config: SensorConfig, observe: Observer | None = None) -> SensorReport:
    """Run a sensor until its source has ended, its limit is reached, or SIGTERM or Ctrl-C; blocks.

    ``observe`` is called in a worker thread with every message and the symbols it codes. Raises a
    LatentwireError that says in one line what is wrong and what to do.
    """
    log.info("sensor settings: %s; range coder: %s", config.described(), in_use())
    bundle = load_bundle(config.bundle, "sensor")
    tuner = Tuner(bundle, OperatingPoints(bundle), config.threads, config.encode_batch_images)
    with ExitStack() as stack:
        store = BundleStore.of(config, bundle)
        if store is not None:
            stack.callback(store.close)
        first = first_candidate(tuner, store, config.variant, config.model, config.rate_scale)
        return _run(config, store, first, observe)


def _run(config: SensorConfig, store: BundleStore | None, first: Candidate, observe: Observer | None) -> SensorReport:
    bundle = first.tuner.bundle
    root = None if config.data_root is None else Path(config.data_root)
    classes = bundle.manifest.classes
    source = open_source(config.source, bundle.manifest.input, classes, root, config.source_options)
    with ExitStack() as stack:
        kept = None
        if config.spool is not None:
            settings = SpoolSettings(Path(config.spool), config.spool_bytes, config.spool_full, config.spool_sync)
            kept = resume(settings, config.results, config.source, classes)
            stack.callback(kept.close)
        results = ResultsFile(config.results) if kept is None else kept.results
        stack.callback(results.close)
        ledger = Ledger(classes, results, unsent=None if kept is None else kept.spool.state.dropped)
        tracing = None
        if config.traces is not None:
            tracing = Tracing("latentwire-sensor", config.traces, config.trace_share)
            stack.callback(tracing.close)
        parts = _Parts(config, store, first, source, ledger, kept, tracing)
        asyncio.run(_Run(parts, observe).run())
        return ledger.report()


class _Run:
    """The tasks of one run, and how they end."""

    def __init__(self, parts: _Parts, observe: Observer | None) -> None:
        config, ledger, kept = parts.config, parts.ledger, parts.kept
        self._parts = parts
        self._queue = FrameQueue(2 * config.images_per_message)
        self._session = Session(
            uuid.uuid4().hex if kept is None else kept.spool.state.session,
            config.name,
            parts.first.tuner.bundle,
            parts.first.point,
            parts.first.encoder,
            config.max_unanswered_images,
            config.images_per_message,
            ledger.coded,
            None if kept is None else kept.window(),
            1 if kept is None else kept.spool.state.point + 1,
        )
        servers = Servers(config.servers, random.randrange(len(config.servers)))  # so that sensors spread over them
        caps = Caps(config.max_image_bits, config.max_message_bits)
        coder = MessageCoder(self._queue, ledger.dropped, config.delay_s, observe, caps)
        self._control = RateControlTask(
            self._session,
            parts.first.tuner,
            self._queue,
            config.rate_control,
            Sight(servers, parts.source.live, config.source_options.fps, config.delay_s, config.max_image_bits),
        )
        self._pipeline = Pipeline(self._session, self._queue, coder, config.limit, self._control.due)
        self._writer = ThreadPoolExecutor(1, "latentwire-results")
        # Who follows the link (rate control), and what runs beside the stream until the sensor ends: a task that
        # fails ends the sensor with its error.
        self._observers: list[LinkObserver] = [self._control]
        self._services: list[Callable[[], Coroutine[Any, Any, None]]] = [self._control.run]
        self._spooled = None if kept is None else self._spool(kept)
        if self._spooled is not None:
            self._session.backlog = self._spooled
            self._services.append(self._spooled.run)
        self._recorder = Recorder(self._writer, self._session.backlog.answered)
        self._services.append(self._recorder.run)
        client = BundleClient(Dialer(servers, config.access), config.max_backoff_s)
        updater = Updater(self._session, parts.first.tuner, self._queue, client, parts.store)
        self._services.append(updater.run)
        self._commands = Commands(self._session, parts.first.tuner, self._queue, updater, self._control)
        self._captured = CaptureCounts()
        self._watch(coder)
        self._stream = StreamClient(
            config,
            Dialer(servers, config.access),
            self._session,
            ledger,
            self._commands,
            self._recorder,
            self._observers,
            self._control,
        )
        self._stopping = asyncio.Event()

    def _spool(self, kept: Resumed) -> SpooledBacklog:
        parts, config = self._parts, self._parts.config
        return SpooledBacklog(
            kept.spool,
            self._session,
            parts.ledger,
            self._writer,
            live=parts.source.live,
            commit_s=config.spool_commit_s,
            sync_results=kept.results.sync if config.spool_sync == "full" else None,
        )

    def _watch(self, coder: MessageCoder) -> None:
        """Let the machine's operator and Prometheus see how the sensor is doing."""
        config, source = self._parts.config, self._parts.source.description
        ledger, meter = self._parts.ledger, coder.meter
        monitor = Monitor(config, source, self._session, self._queue, ledger, self._captured, meter)
        self._observers.append(monitor)
        self._services.append(partial(serve_status, config.run_dir, monitor.vitals))
        if self._parts.tracing is not None:
            self._observers.append(MessageSpans(self._parts.tracing, self._session))
        if config.metrics is not None:
            from edge_sensor.metrics import serve_metrics  # a web server, which most sensors do without

            self._services.append(partial(serve_metrics, config.metrics, monitor.vitals))

    async def run(self) -> None:
        """Run to the end; raises what ended the run badly."""
        parts, config = self._parts, self._parts.config
        with ExitStack() as stack:
            stack.enter_context(_on_signals(self._stop))
            stack.callback(self._writer.shutdown)
            if config.progress:
                title = f"{config.name}: {parts.source.description} -> {config.server}"
                stack.enter_context(Display(title, parts.ledger.report, self._tuning))
            again = config.limit is not None
            done = parts.kept.spool.state.place if parts.kept is not None and not config.source_options.watch else 0
            start_capture(parts.source, self._queue, parts.ledger, again=again, counts=self._captured, done=done)
            await self._run_tasks()

    async def _run_tasks(self) -> None:
        pipeline = asyncio.create_task(self._pipeline.run())
        stream = asyncio.create_task(self._stream.run())
        grace = asyncio.create_task(self._grace())
        beside = [asyncio.create_task(run()) for run in (self._commands.run, *self._services)]
        tasks = (pipeline, stream, grace, *beside)
        try:
            # The stream ends when all is answered, or with a refusal; grace ends when there is no more time.
            # A source that ended badly ends the pipeline, but what was sent before is still answered.
            await asyncio.wait((stream, grace, *beside), return_when=asyncio.FIRST_COMPLETED)
            for task in (stream, *beside):
                if task.done():
                    task.result()
            if pipeline.done():
                pipeline.result()
        finally:
            self._queue.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._give_up()

    async def _give_up(self) -> None:
        """Write down what is answered, and account for what will not be any more."""
        ledger, loop = self._parts.ledger, asyncio.get_running_loop()
        await self._write_rest()
        if self._spooled is not None:
            await self._spooled.finish(done=self._session.complete and not self._stopping.is_set())
        left = self._session.window.abandon()
        if left and self._spooled is None:
            await loop.run_in_executor(self._writer, partial(ledger.abandoned, left, STOPPED))
        # What was captured of a recorded source and not coded is read again, if a spool knows how far it was.
        if self._stopping.is_set() and (self._spooled is None or self._parts.source.live):
            for frame in self._queue.drain():
                await loop.run_in_executor(self._writer, partial(ledger.dropped, frame.item, STOPPED))

    async def _write_rest(self) -> None:
        """Have the last results written; a full disk is waited for until the sensor is told to stop."""
        patience = asyncio.create_task(self._lose_patience(at_once=not self._session.complete))
        try:
            await self._recorder.finish()
        except DiskFullError as error:
            log.error("%s: the images are answered again after the next start", error)
        finally:
            patience.cancel()

    async def _lose_patience(self, *, at_once: bool) -> None:
        if not at_once:
            await self._grace()
        if self._parts.kept is not None:
            self._parts.kept.results.give_up()

    def _stop(self) -> None:
        log.info("stopping: what is in flight has %g s to be answered", self._parts.config.grace_s)
        self._stopping.set()
        self._session.stopping = True
        self._queue.end()
        self._session.wakeup.notify()

    async def _grace(self) -> None:
        """Return when there is no more time, or no use in waiting: all is in the spool, and there is no link."""
        await self._stopping.wait()

        def settled() -> bool:
            return self._spooled is not None and self._session.coded_all and not self._stream.connected

        await self._session.wakeup.wait_for(settled, self._parts.config.grace_s)

    def _tuning(self) -> str:
        name = self._session.tuning.name
        return f"{name.variant}, {name.model}, rate scale {name.rate_scale:g}"


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGTERM and SIGINT; outside the main thread signals are somebody else's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(RuntimeError):
                loop.remove_signal_handler(number)

"""Results on disk besides the stream: each answer is written before its reply leaves.

::

    answers of all streams -> bounded queue -> one thread: write a group, sync it -> the replies may leave

A disk that is full, or fails, holds the replies back: streams' unanswered images reach their limit, they are read no
more, and sensors keep what they have. No answer is passed over.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_server.pipeline import Answered, Job
from edge_server.result_sink_files import WRITE_ERRORS, Row, open_file
from latentwire.errors import CodecError, ServerUnavailableError

RETRY_S = 1.0
MAX_QUEUED_IMAGES = 65536

log = logging.getLogger("latentwire.server")


@dataclass(frozen=True, slots=True)
class _Queued:
    rows: list[Row]
    done: asyncio.Future[None]


class ResultSink:
    """Writes rows in a thread of its own. Use it from one event loop."""

    def __init__(self, path: Path, max_queued_images: int = MAX_QUEUED_IMAGES, retry_s: float = RETRY_S) -> None:
        """Open ``path``, a kind of file by its ending; LatentwireError if that cannot be done. May block."""
        self._path = path
        self._file = open_file(path)
        self._max_queued_images = max_queued_images
        self._retry_s = retry_s
        self._queue: deque[_Queued] = deque()
        self.queued_images = 0  # and those that are being written
        self.stuck = False  # the disk takes nothing now
        self._room = asyncio.Event()
        self._room.set()
        self._change = threading.Condition()
        self._closing = False
        self._given_up = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="latentwire-results", daemon=True)
        self._thread.start()

    def kept(
        self,
        sensor: str,
        session: str,
        job: Job,
        answer: asyncio.Future[Answered],
        before: asyncio.Future[Answered] | None,
    ) -> asyncio.Future[Answered]:
        """``answer``, once it is on disk; raises what it raises, or ServerUnavailableError if the sink has given up.

        ``before`` is the stream's batch before this one. If that fails, so does this: both will come again, and would
        be written twice.
        """
        task = asyncio.create_task(self._keep(sensor, session, job, answer, before))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a stream may have ended: no warning
        return task

    def give_up(self) -> None:
        """Wait for no disk any more: what cannot be written at once is not answered."""
        self._given_up.set()

    async def close(self) -> None:
        """Write what is queued, then close the file."""
        self.give_up()
        with self._change:
            self._closing = True
            self._change.notify()
        await asyncio.to_thread(self._thread.join)

    async def _keep(
        self,
        sensor: str,
        session: str,
        job: Job,
        answer: asyncio.Future[Answered],
        before: asyncio.Future[Answered] | None,
    ) -> Answered:
        answered = None
        try:
            answered = await asyncio.shield(answer)
        finally:
            if before is not None:
                await asyncio.wait({before})
        if before is not None:
            error = before.exception()
            if error is not None and not isinstance(error, CodecError):  # a refusal accounts for its images
                raise error
        await self._write(_rows(sensor, session, job, answered))
        return answered

    async def _write(self, rows: list[Row]) -> None:
        while not self._room.is_set():
            await self._room.wait()
        done: asyncio.Future[None] = self._loop.create_future()
        self.queued_images += len(rows)
        if self.queued_images >= self._max_queued_images:
            self._room.clear()
        with self._change:
            self._queue.append(_Queued(rows, done))
            self._change.notify()
        await done

    def _work(self) -> None:
        """The thread: everything that waits is one group, so a slow disk makes larger groups."""
        while True:
            with self._change:
                while not self._queue and not self._closing:
                    self._change.wait()
                group = list(self._queue)
                self._queue.clear()
            if not group:
                break
            written = self._write_in_time([row for queued in group for row in queued.rows])
            self._loop.call_soon_threadsafe(self._finish, group, written)
        with contextlib.suppress(*WRITE_ERRORS):  # all that was answered is synced
            self._file.close()

    def _write_in_time(self, rows: Sequence[Row]) -> bool:
        """Write rows, waiting for the disk for as long as it takes; False if given up."""
        while True:
            try:
                self._file.write(rows)
            except WRITE_ERRORS as error:
                if not self.stuck:
                    log.error("results cannot be written to %s (%s); no image is answered until they can: make room",
                              self._path, error)  # fmt: skip
                self.stuck = True
                if self._given_up.is_set():
                    return False
                self._given_up.wait(self._retry_s)
            else:
                if self.stuck:
                    log.info("results are written to %s again", self._path)
                self.stuck = False
                return True

    def _finish(self, group: list[_Queued], written: bool) -> None:
        for queued in group:
            self.queued_images -= len(queued.rows)
            if queued.done.done():
                continue
            if written:
                queued.done.set_result(None)
            else:
                queued.done.set_exception(ServerUnavailableError("the server cannot keep its results; reconnect"))
        if self.queued_images < self._max_queued_images:
            self._room.set()


def _rows(sensor: str, session: str, job: Job, answered: Answered) -> list[Row]:
    point, classes, batch, results = job.served.point, job.served.bundle.manifest.classes, job.batch, answered.results
    now_s, bits = time.time(), 8 * len(batch.payload) / batch.images
    return [
        Row(now_s, sensor, session, batch.first_sequence + i, classes[label], label, probability,
            point.variant, point.model, point.rate_scale, bits)
        for i, (label, probability) in enumerate(zip(results.labels, results.probabilities, strict=True))
    ]  # fmt: skip

"""Gathers the jobs of all streams into micro-batches and has worker threads do them.

A micro-batch closes when it holds ``max_images`` or its first job has waited ``delay_s``, and a worker is
free; while all workers are busy the next one goes on growing. Jobs are taken in the order they came. Both numbers
are settings, or else ``pace.py``'s.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from edge_server.pace import Pace
from latentwire.errors import LatentwireError

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class _Queued(NamedTuple, Generic[Job, Answer]):
    job: Job
    images: int
    future: asyncio.Future[Answer]
    came_s: float


class Batcher(Generic[Job, Answer]):
    """Bounded queue in front of ``work``, which answers a list of jobs in order, in a worker thread.

    An answer that is a ``LatentwireError`` is raised from its own job's future alone; what ``work`` itself
    raises is raised from the futures of the whole micro-batch. Use it from one event loop.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Answer | LatentwireError]],
        *,
        max_images: int | None,
        delay_s: float | None,
        max_queued_images: int,
        workers: int,
    ) -> None:
        """See ``ServerConfig`` for the settings."""
        self._work = work
        self._pace = Pace(max_images, delay_s)
        self._max_queued_images = max_queued_images
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="latentwire-decode")
        self._workers = self._free_workers = workers
        self._queue: deque[_Queued[Job, Answer]] = deque()
        self._queued_images = 0
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued_images(self) -> int:
        """Images that wait for a worker."""
        return self._queued_images

    async def submit(self, job: Job, images: int) -> asyncio.Future[Answer]:
        """Queue a job of ``images`` images; waits while the queue is full. The future holds its answer."""
        while not self._room.is_set():
            await self._room.wait()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.append(_Queued(job, images, future, loop.time()))
        self._queued_images += images
        if self._queued_images >= self._max_queued_images:
            self._room.clear()
        self._dispatch()
        return future

    async def close(self) -> None:
        """Let the workers finish what they have and end them; what is still queued is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        for queued in self._queue:
            queued.future.cancel()
        self._queue.clear()
        await asyncio.to_thread(self._executor.shutdown)

    def _dispatch(self) -> None:
        """Hand micro-batches to free workers, and see to it that the next one closes in time."""
        loop = asyncio.get_running_loop()
        while self._queue and self._free_workers:
            due_s = self._queue[0].came_s + self._pace.delay_s(self._workers - self._free_workers)
            if self._queued_images < self._pace.max_images and loop.time() < due_s:
                if self._timer is None:
                    self._timer = loop.call_at(due_s, self._on_timer)
                return
            taken = self._take()
            self._free_workers -= 1
            done = loop.run_in_executor(self._executor, self._work, [queued.job for queued in taken])
            done.add_done_callback(partial(self._finish, taken, loop.time()))

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()

    def _take(self) -> list[_Queued[Job, Answer]]:
        """The next micro-batch: at least one job, and more as long as they fit."""
        taken = [self._queue.popleft()]
        images, most = taken[0].images, self._pace.max_images
        while self._queue and images + self._queue[0].images <= most:
            taken.append(self._queue.popleft())
            images += taken[-1].images
        self._queued_images -= images
        if self._queued_images < self._max_queued_images:
            self._room.set()
        return taken

    def _finish(
        self,
        taken: list[_Queued[Job, Answer]],
        began_s: float,
        done: asyncio.Future[Sequence[Answer | LatentwireError]],
    ) -> None:
        self._free_workers += 1
        self._pace.ran(sum(queued.images for queued in taken), asyncio.get_running_loop().time() - began_s)
        error = done.exception()
        answers = [error] * len(taken) if error is not None else done.result()
        for queued, answer in zip(taken, answers, strict=True):
            if queued.future.done():  # cancelled: nobody waits for it any more
                continue
            if isinstance(answer, BaseException):
                queued.future.set_exception(answer)
                queued.future.exception()  # taken note of: a stream that has ended must not make a warning
            else:
                queued.future.set_result(answer)
        self._dispatch()

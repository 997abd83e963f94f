"""Has results written down, in order and off the event loop, and says what is written."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from edge_sensor.session import Wakeup

_MAX_QUEUED = 64


class Recorder:
    """A queue of writes, each with the sequence that all is answered before once it is done.

    ``written`` is told of that sequence. ``writer`` is the one thread that writes results: neither a full pipe nor a
    slow disk stops the loop.
    """

    def __init__(self, writer: ThreadPoolExecutor, written: Callable[[int], None]) -> None:
        self._writer = writer
        self._written = written
        self._queue: deque[tuple[Callable[[], None], int]] = deque()
        self._changed = Wakeup()
        self._writing = asyncio.Lock()

    async def ready(self) -> None:
        """Wait until there is room for one more write."""
        await self._changed.wait_for(lambda: len(self._queue) < _MAX_QUEUED)

    def put(self, write: Callable[[], None], answered: int) -> None:
        """Have ``write`` called, after all that was put before."""
        self._queue.append((write, answered))
        self._changed.notify()

    async def run(self) -> None:
        """Write until cancelled; raises what a write raises."""
        while True:
            await self._changed.wait_for(lambda: bool(self._queue))
            # Shielded: a write that is under way comes to its end, and is not done again by ``finish``.
            await asyncio.shield(asyncio.ensure_future(self.finish()))

    async def finish(self) -> None:
        """Write all that is queued."""
        async with self._writing:
            while self._queue:
                part = list(self._queue)
                await asyncio.get_running_loop().run_in_executor(self._writer, partial(_write_all, part))
                for _ in part:
                    self._queue.popleft()
                self._written(part[-1][1])
                self._changed.notify()


def _write_all(part: list[tuple[Callable[[], None], int]]) -> None:
    for write, _ in part:
        write()

"""The event loop's side of coding.

As long as there is room, have the next message coded and put into the backlog.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from edge_sensor.coder import MessageCoder
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.session import Session
from latentwire.errors import CodecError, InferenceError
from latentwire.messages import Limits


class Pipeline:
    """Codes images one message at a time in a thread of its own; turns the knob between two messages.

    ``limit`` is how many images to code in all; None for as many as the source has.
    """

    def __init__(
        self,
        session: Session,
        queue: FrameQueue,
        coder: MessageCoder,
        limit: int | None,
        due: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``due`` returns when the next message is to be coded, if somebody follows the link; None: at once."""
        self._session = session
        self._queue = queue
        self._coder = coder
        self._limit = limit
        self._due = due

    async def run(self) -> None:
        """Return when the source has ended or the limit is reached; raises what ended the source badly."""
        worker = ThreadPoolExecutor(1, "latentwire-coder")
        try:
            while await self._next_messages(worker):
                pass
        finally:
            self._queue.end()  # wakes the worker, and tells the capture thread to stop
            worker.shutdown(wait=False)
            self._session.end_coding()

    async def _next_messages(self, worker: ThreadPoolExecutor) -> bool:
        session = self._session
        images = self._wanted()
        if not images:
            return False
        # Only the wait for the first welcome may be cut short: what is captured while a link is down is kept.
        await session.wakeup.wait_for(
            lambda: session.turning or session.backlog.takes(self._wanted()) or self._gave_up()
        )
        if self._gave_up() and not session.backlog.takes(self._wanted()):
            return False
        if self._due is not None:
            await self._due()
        session.at_boundary()
        images = self._wanted()
        if not images or not session.backlog.takes(images):
            return True
        try:
            messages = await asyncio.get_running_loop().run_in_executor(
                worker,
                self._coder.next_messages,
                session.tuning,
                session.window.next_sequence,
                images,
                (session.limits or Limits()).max_payload_bytes,
            )
        except (CodecError, InferenceError) as error:
            if not session.failed(error):
                raise
            return True  # the coder kept the frames: they are coded as before
        await session.backlog.put(messages or ())
        session.wakeup.notify()
        return messages is not None

    def _wanted(self) -> int:
        """Images of the next message, at most; 0 when the limit is reached."""
        images = self._session.message_images()
        if self._limit is None:
            return images
        return min(images, self._limit - self._session.backlog.coded_images)

    def _gave_up(self) -> bool:
        """Told to stop before any server was reached."""
        return self._queue.ended and self._session.limits is None and self._session.stopping

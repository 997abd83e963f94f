"""The event loop's side of the spool: coded messages go to disk, and from there into the window as there is room.

::

    coder -> pending, in memory -> one transaction -> waiting, on disk -> one transaction -> window -> the stream

What is pending is committed at most once every ``commit_s``, and at once when that much time has passed; one
transaction does all there is to do. Until its commit no server sees a message.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from edge_sensor.backlog import Waiting
from edge_sensor.ledger import Ledger
from edge_sensor.session import Session
from edge_sensor.spool import Spool
from edge_sensor.spool_state import SpoolState
from edge_sensor.window import CodedMessage
from latentwire.errors import DiskFullError, MalformedMessageError

SPOOL_FULL = "spool_full"  # why a coded image is dropped: the spool holds no more
DISK_FULL = "disk_full"  # ... or cannot be written

_BULK_IMAGES = 64  # so many pending images are committed at once, whenever the last commit was
_MAX_PENDING_IMAGES = 256
_ANSWERED_S = 1.0  # an answer may wait so long before its message is removed: it is known from the results too
_RETRY_S = 1.0  # after the disk was full

T = TypeVar("T")

log = logging.getLogger("latentwire.sensor")


class SpooledBacklog:
    """A backlog on disk."""

    def __init__(
        self,
        spool: Spool,
        session: Session,
        ledger: Ledger,
        writer: ThreadPoolExecutor,
        *,
        live: bool,
        commit_s: float,
        sync_results: Callable[[], None] | None = None,
    ) -> None:
        """``live``: the source cannot wait, so what does not fit is dropped. ``writer`` is what writes results.

        ``sync_results`` has them on the disk before the messages that they answer are removed; None where the
        machine's power does not count.
        """
        self._spool = spool
        self._session = session
        self._ledger = ledger
        self._writer = writer
        self._live = live
        self._commit_s = commit_s
        self._sync_results = sync_results
        self._thread = ThreadPoolExecutor(1, "latentwire-spool")
        self._pending: deque[CodedMessage] = deque()
        self._pending_images = 0
        self._committing = 0  # of the pending, from the left: in the transaction under way
        # As of the last transaction that this thread knows of; the spool's thread may be in the next.
        self._waiting = spool.waiting
        self._coded_images = spool.state.coded_images
        self._answered = self._removed = session.window.first_sequence
        self._disk_full = False
        self._turned_s = float("-inf")
        self._too_small = 0  # room in the window that was not enough for the message that is next
        self._turning = asyncio.Lock()

    @property
    def waiting(self) -> Waiting:
        """What waits now, pending messages in."""
        known = self._waiting
        if not self._pending:
            return known
        oldest_s = self._pending[0].pictures[0].captured_s if known.oldest_s is None else known.oldest_s
        return replace(
            known,
            messages=known.messages + len(self._pending),
            images=known.images + self._pending_images,
            oldest_s=oldest_s,
        )

    @property
    def coded_images(self) -> int:
        """Images coded since the source was begun."""
        return self._coded_images

    def takes(self, images: int) -> bool:
        """A live source's images, always, but that memory is bounded; a recorded one's as they can be sent."""
        if self._pending and self._pending_images + images > _MAX_PENDING_IMAGES:
            return self._live and self._disk_full  # something is dropped for them
        if self._live:
            return True
        return self._waiting.bytes < self._spool.max_bytes and (
            self._session.room() - self._pending_images - self._waiting.images >= images
        )

    async def put(self, messages: Sequence[CodedMessage]) -> None:
        """Keep messages in memory until the next commit."""
        self._pending.extend(messages)
        coded = sum(message.batch.images for message in messages)
        self._pending_images += coded
        self._coded_images += coded
        lost: list[CodedMessage] = []
        kept = max(self._committing, 1)  # what may just be reaching the disk must not be counted as dropped
        dropping = self._disk_full and self._live
        while dropping and self._pending_images > _MAX_PENDING_IMAGES and len(self._pending) > kept:
            at = self._committing if self._spool.full == "oldest" else -1
            lost.append(self._pending[at])
            del self._pending[at]
            self._pending_images -= lost[-1].batch.images
        await self._drop(lost, DISK_FULL)
        self._session.wakeup.notify()

    def answered(self, first_sequence: int) -> None:
        """Their results are written down: let go of them soon."""
        self._answered = max(self._answered, first_sequence)
        self._session.wakeup.notify()

    async def run(self) -> None:
        """Commit and refill until cancelled; raises SpoolError when the spool cannot be used any more."""
        while True:
            wait_s = self._due_in_s()
            if wait_s is None or wait_s > 0:
                await self._session.wakeup.changed(wait_s)
            else:
                # Shielded: a transaction that is under way comes to its end, and what it did is taken note of.
                await asyncio.shield(asyncio.ensure_future(self._turn(self._session.room())))

    async def renew(self, session: str) -> None:
        """Go on under another session's id; the numbers stay."""
        async with self._turning:
            await self._in_thread(partial(self._spool.save, replace(self._spool.state, session=session)))

    async def finish(self, *, done: bool) -> None:
        """Put all there is on disk and close. ``done``: the source has ended and all of it is answered."""
        try:
            await self._turn(room=0)
            await self._drop(tuple(self._pending), DISK_FULL)
            if done:
                await self._in_thread(lambda: self._spool.save(_begun_anew(self._spool.state)))
        finally:
            await self._in_thread(self._spool.close)
            self._thread.shutdown(wait=False)

    def _due_in_s(self) -> float | None:
        """Seconds until the next transaction; None: nothing to do."""
        since_s = time.monotonic() - self._turned_s
        if self._disk_full:
            return _RETRY_S - since_s
        if self._pending_images >= _BULK_IMAGES:
            return 0.0
        if self._pending:
            return self._commit_s - since_s
        if self._waiting.images and (room := self._session.room()) > self._too_small:
            return 0.0 if room >= self._session.window.images else self._commit_s - since_s
        return _ANSWERED_S - since_s if self._answered > self._removed else None

    async def _turn(self, room: int) -> None:
        async with self._turning:
            new, answered = list(self._pending), self._answered
            self._committing = len(new)
            self._turned_s = time.monotonic()
            totals, limits = self._ledger.unsent(), self._session.limits
            try:
                if self._sync_results is not None and answered > self._removed:
                    await self._in_thread(self._sync_results)
                turned = await self._in_thread(partial(self._spool.turn, new, answered, room, totals, limits))
            except DiskFullError as error:
                if not self._disk_full:
                    log.error("%s: what is spooled is safe; what is coded now waits in memory, then is dropped", error)
                self._disk_full = True
                self._session.wakeup.notify()
                return
            finally:
                self._committing = 0
            if self._disk_full:
                log.warning("the spool can be written again")
            self._disk_full = False
            for message in new:
                self._pending.popleft()
                self._pending_images -= message.batch.images
            self._waiting = self._spool.waiting
            self._removed = answered
            self._too_small = 0 if turned.numbered else room
            for message in turned.numbered:
                self._session.window.add(message)
                self._ledger.coded(message)
        self._session.wakeup.notify()
        await self._drop(turned.dropped, SPOOL_FULL)
        await self._drop(turned.too_large, MalformedMessageError.__name__)

    async def _drop(self, messages: Sequence[CodedMessage], reason: str) -> None:
        if messages:
            await asyncio.get_running_loop().run_in_executor(
                self._writer, self._ledger.dropped_messages, messages, reason
            )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _begun_anew(state: SpoolState) -> SpoolState:
    return replace(state, coded_images=0, place=0, done=True)

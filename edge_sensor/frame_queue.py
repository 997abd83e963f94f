"""The bounded queue between capturing and encoding, and the rule that closes a message."""

import threading
import time
from collections import deque
from collections.abc import Callable

from edge_sensor.sources import Frame
from latentwire.errors import LatentwireError

Clock = Callable[[], float]


class OpenMessage:
    """Images that will travel together.

    Closed by count, or by the age of the oldest, whichever comes first.
    """

    __slots__ = ("_delay_s", "_images", "frames")

    def __init__(self, images: int, delay_s: float) -> None:
        self._images = images
        self._delay_s = delay_s
        self.frames: list[Frame] = []

    @property
    def full(self) -> bool:
        """No image fits any more."""
        return len(self.frames) >= self._images

    def wait_s(self, now_s: float) -> float:
        """Seconds it may stay open; 0 when it is to be closed. It holds at least one image."""
        if self.full:
            return 0.0
        return max(0.0, self.frames[0].captured_s + self._delay_s - now_s)


class FrameQueue:
    """Frames on their way from the capture thread to the encoder.

    Every wait ends when the queue is closed.
    """

    def __init__(self, capacity: int, clock: Clock = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._hurry = False
        self._error: LatentwireError | None = None
        self._credit = 0.0
        self.keep = 1.0  # share of a live source's frames that ``admits`` lets in
        self.offered = 0  # frames that ``admits`` was asked for

    @property
    def ended(self) -> bool:
        """Nothing more will be put in."""
        return self._ended

    @property
    def images(self) -> int:
        """Frames in it now."""
        return len(self._frames)

    @property
    def capacity(self) -> int:
        """Frames it holds at most."""
        return self._capacity

    @property
    def oldest_s(self) -> float | None:
        """When the oldest frame in it was captured (monotonic); None when it is empty."""
        with self._changed:
            return self._frames[0].captured_s if self._frames else None

    def resize(self, capacity: int) -> None:
        """Hold so many from now on; what is in stays."""
        if capacity != self._capacity:
            with self._changed:
                self._capacity = capacity
                self._changed.notify_all()

    def admits(self) -> bool:
        """Whether a live source's next frame is to be put in: of all of them a share of ``keep``, evenly."""
        self.offered += 1
        self._credit += self.keep
        if self._credit < 1:
            return False
        self._credit = min(self._credit - 1, 1.0)
        return True

    def put(self, frame: Frame, live: bool) -> Frame | None:
        """Add a frame.

        A recorded source waits for room; a live one pushes out the oldest frame, returned here.
        """
        with self._changed:
            pushed_out = None
            if live and len(self._frames) >= self._capacity:
                pushed_out = self._frames.popleft()
            while len(self._frames) >= self._capacity and not self._ended:
                self._changed.wait()
            if not self._ended:
                self._frames.append(frame)
                self._changed.notify_all()
            return pushed_out

    def take(self, images: int, delay_s: float) -> list[Frame] | None:
        """Wait for a message's worth of images, 1 to ``images``.

        None: the source has ended. An empty list: ``hurry`` was called while no image was there. Raises the
        error that ended the source, once what came before it has been taken.
        """
        message = OpenMessage(images, delay_s)
        with self._changed:
            while True:
                while self._frames and not message.full:
                    message.frames.append(self._frames.popleft())
                self._changed.notify_all()
                wait_s = message.wait_s(self._clock()) if message.frames else None
                if wait_s == 0.0 or self._ended or self._hurry:
                    break
                self._changed.wait(wait_s)
            self._hurry = False
            if message.frames or not self._ended:
                return message.frames
        if self._error is not None:
            raise self._error
        return None

    def hurry(self) -> None:
        """Close the message that is open now, however few images it holds."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def end(self, error: LatentwireError | None = None) -> None:
        """Put nothing in any more.

        What is in may still be taken. ``error`` says why the source ended badly.
        """
        with self._changed:
            if not self._ended:
                self._ended = True
                self._error = error
            self._changed.notify_all()

    def drain(self) -> list[Frame]:
        """Take out all that is left, without waiting."""
        with self._changed:
            left = list(self._frames)
            self._frames.clear()
            return left

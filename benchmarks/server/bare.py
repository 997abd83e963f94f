"""The bare loop: entropy decoding and ONNX Runtime on prepared messages, with no server around them."""

import os
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.server.plan import Row
from benchmarks.server.prepared import Prepared
from latentwire.codec.bulk import Coded

BATCHES = (32, 64, 128, 256, 512)  # images in one run


class Bare:
    """In this process, on the server's core. The fastest of the batch sizes is used, found once at the start."""

    def __init__(self, messages: Prepared, core: int, seconds: float) -> None:
        self._served = messages.served
        self._coded = [Coded(b.payload, b.images, b.crc32) for b in messages.batches]
        self._size = messages.batches[0].images
        self._core = core
        self._seconds = seconds
        self._one_s = 0.0
        sizes = [size for size in BATCHES if size >= self._size]
        self.batch_images = max(sizes, key=lambda size: self._run(size, seconds / len(sizes)))

    def images_per_s(self) -> float:
        """Images of one run of it, over its time."""
        return self._run(self.batch_images, self._seconds)

    def one_image_s(self, messages: Prepared) -> float:
        """Seconds that one image takes alone, median."""
        taken = []
        with _pinned(self._core):
            for batch in messages.batches[:100]:
                start = time.perf_counter()
                self._answer([Coded(batch.payload, batch.images, batch.crc32)])
                taken.append(time.perf_counter() - start)
        return float(np.median(taken))

    def _run(self, batch_images: int, seconds: float) -> float:
        messages = max(1, batch_images // self._size)
        images = place = 0
        with _pinned(self._core):
            self._answer(self._coded[:messages])
            start = now = time.perf_counter()
            while now - start < seconds:
                some = [self._coded[(place + i) % len(self._coded)] for i in range(messages)]
                place += messages
                self._answer(some)
                images += messages * self._size
                now = time.perf_counter()
        return images / (now - start)

    def _answer(self, messages: Sequence[Coded]) -> None:
        decoded, errors = self._served.point.codec.decode_many(messages)
        assert errors == [None] * len(messages), "prepared messages are sound"
        rows = np.flatnonzero(decoded.level)
        self._served.decoder.run(decoded.latent[rows], self._served.conditions(decoded, rows))

    def row(self, start: Row, speed: Row) -> Row:
        """What it does."""
        return (
            start | {"server": "bare loop", "images_per_message": self._size, "batch_images": self.batch_images} | speed
        )


class _pinned:
    """This process on one core for a while."""

    def __init__(self, core: int) -> None:
        self._core = core

    def __enter__(self) -> None:
        self._was = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._core})

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._was)

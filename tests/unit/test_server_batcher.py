"""Micro-batches: what goes together, in which order, and what one bad job does to the others."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from edge_server import pace
from edge_server.batcher import Batcher
from edge_server.pace import Pace
from latentwire.errors import ChecksumError, InferenceError, LatentwireError

pytestmark = pytest.mark.asyncio


class Work:
    """Doubles each job; notes the micro-batches; a job of 13 is refused, one of 666 fails all beside it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | LatentwireError]:
        self.batches.append(list(jobs))
        assert self.gate.wait(10)
        if 666 in jobs:
            raise InferenceError("the decoder failed")
        return [ChecksumError("bad") if job == 13 else 2 * job for job in jobs]


def make_batcher(
    work: Work,
    *,
    max_images: int | None = 8,
    delay_s: float | None = 0.05,
    max_queued_images: int = 1000,
    workers: int = 1,
) -> Batcher[int, int]:
    return Batcher(work, max_images=max_images, delay_s=delay_s, max_queued_images=max_queued_images, workers=workers)


async def test_jobs_that_come_within_the_delay_share_a_batch_and_get_their_own_answers() -> None:
    work = Work()
    batcher = make_batcher(work)
    futures = [await batcher.submit(job, 1) for job in (1, 2, 3)]
    assert await asyncio.gather(*futures) == [2, 4, 6]
    assert work.batches == [[1, 2, 3]]
    await batcher.close()


async def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    work = Work()
    batcher = make_batcher(work, max_images=4, delay_s=60)
    futures = [await batcher.submit(job, 2) for job in (1, 2)]
    async with asyncio.timeout(5):
        assert await asyncio.gather(*futures) == [2, 4]
    await batcher.close()


async def test_a_lone_job_leaves_after_the_delay() -> None:
    work = Work()
    batcher = make_batcher(work, delay_s=0.01)
    async with asyncio.timeout(5):
        assert await (await batcher.submit(5, 1)) == 10
    await batcher.close()


async def test_a_message_larger_than_a_batch_goes_alone() -> None:
    work = Work()
    batcher = make_batcher(work, max_images=4, delay_s=0)
    work.gate.clear()
    futures = [await batcher.submit(job, images) for job, images in ((1, 1), (2, 100), (3, 1), (4, 1))]
    work.gate.set()
    await asyncio.gather(*futures)
    assert work.batches == [[1], [2], [3, 4]]
    await batcher.close()


async def test_while_workers_are_busy_the_next_batch_grows() -> None:
    work = Work()
    batcher = make_batcher(work, delay_s=0)
    work.gate.clear()
    futures = [await batcher.submit(job, 1) for job in range(6)]
    work.gate.set()
    assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3, 4, 5]]
    await batcher.close()


async def test_by_default_a_job_waits_for_others_only_beside_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "DELAY_S", 60.0)
    work = Work()
    batcher = make_batcher(work, max_images=None, delay_s=None, workers=2)
    work.gate.clear()
    futures = [await batcher.submit(job, 1) for job in (1, 2, 3)]
    work.gate.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*futures) == [2, 4, 6]
    assert work.batches == [[1], [2, 3]]  # the second worker was free, and did not take 2 alone
    await batcher.close()


@pytest.mark.parametrize(("image_s", "images"), [(1e-6, 1024), (1e-4, 500), (1e-2, 64)])
async def test_a_micro_batch_is_as_large_as_is_answered_in_good_time(image_s: float, images: int) -> None:
    learned = Pace(None, None)
    assert learned.max_images == 256  # nothing is known yet
    for _ in range(100):
        learned.ran(50, 50 * image_s)
    assert learned.max_images == pytest.approx(images, abs=1)
    assert (Pace(8, 0.5).max_images, Pace(8, 0.5).delay_s(0)) == (8, 0.5)


async def test_a_refused_job_leaves_the_others_be() -> None:
    batcher = make_batcher(Work())
    futures = [await batcher.submit(job, 1) for job in (1, 13, 3)]
    good, bad, also_good = await asyncio.gather(*futures, return_exceptions=True)
    assert (good, also_good) == (2, 6)
    assert isinstance(bad, ChecksumError)
    await batcher.close()


async def test_a_failed_run_fails_its_batch_and_no_later_one() -> None:
    batcher = make_batcher(Work())
    failed = [await batcher.submit(job, 1) for job in (1, 666)]
    assert all(isinstance(e, InferenceError) for e in await asyncio.gather(*failed, return_exceptions=True))
    assert await (await batcher.submit(4, 1)) == 8
    await batcher.close()


async def test_a_full_queue_makes_submitters_wait() -> None:
    work = Work()
    batcher = make_batcher(work, max_images=2, delay_s=0, max_queued_images=4)
    work.gate.clear()
    futures = [await batcher.submit(0, 1)]  # in work
    futures += [await batcher.submit(job, 2) for job in (1, 2)]  # 4 images wait: full
    late = asyncio.create_task(batcher.submit(3, 2))
    await asyncio.sleep(0.05)
    assert not late.done()
    work.gate.set()
    async with asyncio.timeout(5):
        futures.append(await late)
        assert await asyncio.gather(*futures) == [0, 2, 4, 6]
    await batcher.close()


async def test_an_answer_nobody_waits_for_is_no_error() -> None:
    work = Work()
    batcher = make_batcher(work)
    cancelled, kept = [await batcher.submit(job, 1) for job in (1, 2)]
    cancelled.cancel()
    assert await kept == 4
    await batcher.close()

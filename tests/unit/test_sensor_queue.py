"""The rule that closes a message, the queue's promises, and the capture thread."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from edge_sensor.capture import BEHIND, LINK, CaptureCounts, start_capture
from edge_sensor.frame_queue import FrameQueue, OpenMessage
from edge_sensor.sources import Dropped, Found, Frame, Idle, Lost, Skipped
from latentwire.errors import ImageError, SourceError


def frame(number: int, captured_s: float = 0.0) -> Frame:
    return Frame(str(number), np.full((1, 1, 1), number % 256, np.uint8), None, captured_s)


def items(found: list[Frame] | None) -> list[str]:
    assert found is not None
    return [f.item for f in found]


class Recorded:
    live = False
    description = "a list"

    def __init__(self, *found: Found) -> None:
        self.found = found
        self.rounds = 0

    def __iter__(self) -> Iterator[Found]:
        self.rounds += 1
        yield from self.found


class Drops:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.items: list[str] = []

    def dropped(self, item: str, reason: str) -> None:
        self.counts[reason] += 1
        self.items.append(item)


def test_a_message_is_closed_by_count() -> None:
    message = OpenMessage(images=2, delay_s=10.0)
    message.frames.append(frame(0, 100.0))
    assert message.wait_s(100.0) == 10.0
    message.frames.append(frame(1, 100.5))
    assert message.full
    assert message.wait_s(100.6) == 0.0


def test_a_message_is_closed_by_the_age_of_its_oldest_image() -> None:
    message = OpenMessage(images=9, delay_s=0.5)
    message.frames += [frame(0, 100.0), frame(1, 100.4)]
    assert message.wait_s(100.2) == pytest.approx(0.3)
    assert message.wait_s(100.5) == 0.0
    assert message.wait_s(107.0) == 0.0


def test_an_aged_queue_is_taken_at_once_but_only_what_is_there() -> None:
    queue = FrameQueue(8, clock=lambda: 100.0)
    for number in range(3):
        queue.put(frame(number, 99.0), live=False)
    assert items(queue.take(8, delay_s=0.5)) == ["0", "1", "2"]


def test_take_waits_for_the_delay_and_then_gives_what_came() -> None:
    queue = FrameQueue(8)
    queue.put(frame(0, time.monotonic()), live=False)
    threading.Timer(0.05, lambda: queue.put(frame(1, time.monotonic()), live=False)).start()
    started_s = time.monotonic()
    assert items(queue.take(8, delay_s=0.3)) == ["0", "1"]
    assert 0.25 < time.monotonic() - started_s < 2.0


def test_take_returns_as_soon_as_the_count_is_reached() -> None:
    queue = FrameQueue(8)
    for number in range(5):
        queue.put(frame(number, time.monotonic()), live=False)
    assert items(queue.take(3, delay_s=60.0)) == ["0", "1", "2"]


def test_hurry_closes_the_open_message() -> None:
    queue = FrameQueue(8)
    queue.put(frame(0, time.monotonic()), live=False)
    threading.Timer(0.05, queue.hurry).start()
    assert items(queue.take(8, delay_s=60.0)) == ["0"]


def test_hurry_wakes_a_take_that_has_nothing() -> None:
    queue = FrameQueue(8)
    queue.hurry()
    assert queue.take(8, delay_s=60.0) == []


def test_the_end_comes_after_what_was_put_in() -> None:
    queue = FrameQueue(8)
    queue.put(frame(0, time.monotonic()), live=False)
    queue.end(SourceError("gone"))
    queue.put(frame(1), live=False)
    assert items(queue.take(8, delay_s=60.0)) == ["0"]
    with pytest.raises(SourceError, match="gone"):
        queue.take(8, delay_s=60.0)


def test_a_recorded_source_waits_for_room_and_loses_nothing() -> None:
    queue, drops = FrameQueue(2), Drops()
    thread = start_capture(Recorded(*(frame(n) for n in range(50))), queue, drops, again=False)
    found: list[str] = []
    while (taken := queue.take(3, delay_s=0.0)) is not None:
        found += items(taken)
    thread.join(2)
    assert found == [str(number) for number in range(50)]
    assert not drops.counts


def test_a_live_source_pushes_the_oldest_out_and_counts_it() -> None:
    source = Recorded(*(frame(n) for n in range(10)))
    source.live = True
    queue, drops = FrameQueue(4), Drops()
    start_capture(source, queue, drops, again=False).join(2)
    assert items(queue.take(9, delay_s=0.0)) == ["6", "7", "8", "9"]
    assert drops.counts == {BEHIND: 6}
    assert drops.items == ["0", "1", "2", "3", "4", "5"]


def test_a_source_goes_round_until_the_queue_is_ended() -> None:
    source = Recorded(frame(0), frame(1))
    queue = FrameQueue(4)
    thread = start_capture(source, queue, Drops(), again=True)
    found = items(queue.take(4, 0.0)) + items(queue.take(4, 0.0)) + items(queue.take(4, 0.0))
    queue.end()
    thread.join(2)
    assert not thread.is_alive()
    assert found == [str(number % 2) for number in range(len(found))]
    assert source.rounds >= 2


def test_a_source_that_gives_not_one_image_is_an_error_rather_than_an_endless_round() -> None:
    queue, drops = FrameQueue(4), Drops()
    start_capture(Recorded(Dropped("a", "ImageError")), queue, drops, again=True).join(2)
    with pytest.raises(SourceError, match="not one image of a list could be read"):
        queue.take(4, 0.0)
    assert drops.counts == {"ImageError": 1}


def test_the_capture_thread_counts_what_is_no_image_to_send() -> None:
    found = (Skipped("fps"), frame(0), Lost(), Idle(), Skipped("fps"), Skipped("blank"), Lost())
    queue, counts = FrameQueue(4), CaptureCounts(clock=lambda: 7.0)
    assert counts.silent_s() is None
    start_capture(Recorded(*found), queue, Drops(), again=False, counts=counts).join(2)
    assert (counts.captured, counts.skipped(), counts.losses, counts.lost) == (1, {"fps": 2, "blank": 1}, 2, True)
    assert counts.silent_s() == 0.0


def test_a_source_that_has_nothing_new_still_ends_with_the_queue() -> None:
    class Waiting(Recorded):
        def __iter__(self) -> Iterator[Found]:
            while True:
                yield Idle()

    queue = FrameQueue(4)
    thread = start_capture(Waiting(), queue, Drops(), again=False)
    queue.end()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("raised", "expected"), [(ImageError("torn"), "torn"), (RuntimeError("odd"), "a list failed: RuntimeError")]
)
def test_a_source_that_fails_ends_the_queue_with_its_error(raised: Exception, expected: str) -> None:
    class Failing(Recorded):
        def __iter__(self) -> Iterator[Found]:
            yield frame(0)
            raise raised

    queue = FrameQueue(4)
    start_capture(Failing(), queue, Drops(), again=False).join(2)
    assert items(queue.take(1, 0.0)) == ["0"]
    with pytest.raises(SourceError, match=expected):
        queue.take(1, 0.0)


def test_what_an_earlier_process_is_done_with_is_passed_over_in_all_rounds() -> None:
    queue, drops = FrameQueue(100), Drops()
    found = (frame(0), Dropped("broken", "ImageError"), frame(1), frame(2))
    source = Recorded(*found)
    thread = start_capture(source, queue, drops, again=True, done=6)
    frames: list[Frame] = []
    while len(frames) < 4:
        frames += queue.take(100, delay_s=0.0) or []
    queue.end()
    thread.join(2)
    assert items(frames)[:4] == ["1", "2", "0", "1"], "the second round's third item comes first"
    assert [f.place for f in frames][:4] == [7, 8, 9, 11]
    assert drops.counts["ImageError"] >= 1


@pytest.mark.parametrize("keep", [1.0, 0.75, 0.5, 0.1])
def test_of_a_live_source_images_are_left_out_evenly_and_counted(keep: float) -> None:
    queue, drops = FrameQueue(100), Drops()
    queue.keep = keep
    source = Recorded(*(frame(n) for n in range(80)))
    source.live = True
    start_capture(source, queue, drops, again=False).join(2)
    kept = [int(item) for item in items(queue.take(100, 0.0))]
    assert 80 * keep - 1 <= len(kept) <= 80 * keep
    assert drops.counts == ({LINK: 80 - len(kept)} if keep < 1 else {})
    assert max(np.diff(kept)) <= np.ceil(1 / keep)
    assert queue.offered == 80


def test_a_recorded_source_loses_nothing_whatever_is_to_be_kept() -> None:
    queue, drops = FrameQueue(100), Drops()
    queue.keep = 0.1
    start_capture(Recorded(*(frame(n) for n in range(20))), queue, drops, again=False).join(2)
    assert (queue.images, drops.counts) == (20, {})


def test_a_queue_that_is_made_larger_lets_those_in_who_wait() -> None:
    queue = FrameQueue(2)
    thread = start_capture(Recorded(*(frame(n, 5.0 + n) for n in range(4))), queue, Drops(), again=False)
    while queue.images < 2:
        time.sleep(0.001)
    assert thread.is_alive(), "the third waits for room"
    queue.resize(4)
    thread.join(2)
    assert not thread.is_alive()
    assert (queue.images, queue.capacity, queue.oldest_s) == (4, 4, 5.0)
    queue.take(4, 0.0)
    assert queue.oldest_s is None

"""Counts of a sensor."""

from edge_server.stats import MAX_POINTS, SensorCounts


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_counts_are_kept_an_operating_point() -> None:
    counts = SensorCounts(Clock())
    counts.answered(1, images=10, payload_bits=800, refined=4)
    counts.answered(1, images=10, payload_bits=400, refined=1)
    counts.answered(2, images=1, payload_bits=8, refined=0)
    counts.refused(3)
    one = counts.point(1)
    assert (one.images, one.payload_bits_per_image, one.share_refined) == (20, 60.0, 0.25)
    assert (counts.images_answered, counts.images_refused) == (21, 3)


def test_nothing_answered_costs_nothing() -> None:
    point = SensorCounts(Clock()).point(9)
    assert (point.images, point.payload_bits_per_image, point.share_refined) == (0, 0.0, 0.0)


def test_old_operating_points_are_forgotten() -> None:
    counts = SensorCounts(Clock())
    for point in range(1, MAX_POINTS + 2):
        counts.answered(point, 1, 8, 1)
    assert counts.point(1).images == 0
    assert counts.point(2).images == 1


def test_images_a_second_are_those_of_the_last_seconds() -> None:
    clock = Clock()
    counts = SensorCounts(clock)
    for _ in range(20):
        counts.answered(1, images=50, payload_bits=0, refined=0)
        clock.now_s += 0.5
    assert counts.images_per_s() == 80.0  # four whole seconds of 100, over five: the present one is empty
    clock.now_s += 10
    assert counts.images_per_s() == 0.0


def test_a_young_session_is_not_averaged_over_time_before_it() -> None:
    clock = Clock()
    counts = SensorCounts(clock)
    counts.answered(1, images=30, payload_bits=0, refined=0)
    clock.now_s += 2
    assert counts.images_per_s() == 15.0

"""The window: each image is answered once, and nothing unanswered is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sensor.window import CodedMessage, Picture, Window
from latentwire.errors import SequenceError
from latentwire.messages import LatentBatch, OperatingPointName


def point(number: int = 1) -> OperatingPointName:
    return OperatingPointName(number, "full", "gaussian", 1.0, bytes(8))


def message(first: int, images: int, number: int = 1) -> CodedMessage:
    pictures = tuple(Picture(str(first + i), None, 0.0, 1, 4.0) for i in range(images))
    return CodedMessage(LatentBatch(first, images, number, b"x", 7), point(number), pictures, 80)


def filled(*sizes: int) -> Window:
    window = Window()
    for number, images in enumerate(sizes, 1):
        window.add(message(window.next_sequence, images, number))
    return window


def sequences(found: list) -> list[int]:
    return [image.sequence for image in found]


def test_a_window_counts_what_is_unanswered() -> None:
    window = filled(4, 4)
    assert (window.first_sequence, window.next_sequence, window.images) == (0, 8, 8)
    assert sequences(window.resolve(0, 4)) == [0, 1, 2, 3]
    assert (window.first_sequence, window.images) == (4, 4)


def test_a_result_that_comes_again_is_ignored_and_counted() -> None:
    window = filled(4)
    assert sequences(window.resolve(1, 2)) == [1, 2]
    assert sequences(window.resolve(0, 4)) == [0, 3]
    assert window.resolve(0, 4) == []
    assert window.duplicates == 6


def test_results_may_split_and_span_messages() -> None:
    window = filled(3, 3)
    assert sequences(window.resolve(2, 3)) == [2, 3, 4]
    assert window.first_sequence == 0, "its first message is not answered whole"
    assert sequences(window.resolve(0, 6)) == [0, 1, 5]
    assert window.images == 0


def test_a_message_is_kept_until_all_before_it_are_answered() -> None:
    window = filled(2, 2)
    window.resolve(2, 2)
    assert (window.first_sequence, window.images) == (0, 4)
    assert window.at(2) is not None
    window.resolve(0, 2)
    assert window.images == 0
    assert window.at(2) is None


@pytest.mark.parametrize(("first", "images"), [(8, 1), (7, 2), (0, 9), (1 << 60, 1), (0, 1 << 60)])
def test_an_answer_to_an_image_never_sent_is_refused(first: int, images: int) -> None:
    window = filled(4, 4)
    with pytest.raises(SequenceError, match="never sent"):
        window.resolve(first, images)
    assert window.images == 8


@pytest.mark.parametrize(("server_next", "cursor"), [(0, 0), (3, 3), (5, 3), (6, 6), (8, 6), (9, 9)])
def test_sending_resumes_at_the_first_message_not_answered_whole(server_next: int, cursor: int) -> None:
    assert filled(3, 3, 3).resume_at(server_next) == cursor


def test_a_server_cannot_be_ahead_of_what_was_sent() -> None:
    with pytest.raises(SequenceError, match="restart the sensor"):
        filled(3).resume_at(4)


def test_operating_points_are_those_of_the_messages_kept() -> None:
    window = filled(2, 2, 2)
    window.add(message(6, 1, 3))
    window.resolve(0, 2)
    assert [name.id for name in window.operating_points()] == [2, 3]


def test_abandoned_images_are_those_without_an_answer() -> None:
    window = filled(3, 3)
    window.resolve(1, 3)
    assert sequences(window.abandon()) == [0, 4, 5]
    assert window.images == 0


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=40),
)
def test_whatever_answers_come_each_image_is_resolved_once(sizes: list[int], answers: list[tuple[int, int]]) -> None:
    window = filled(*sizes)
    total = sum(sizes)
    resolved: list[int] = []
    for first, images in answers:
        if first + images > total:
            continue
        resolved += sequences(window.resolve(first, images))
        unanswered = set(range(total)) - set(resolved)
        kept = set(range(window.first_sequence, total))
        assert unanswered <= kept
        assert window.images == len(kept)
        assert all(window.at(window.resume_at(s)) is not None for s in unanswered)
    assert len(resolved) == len(set(resolved))
    assert set(sequences(window.abandon())) | set(resolved) == set(range(total))

"""A session's sequence: new, known, missing."""

import pytest

from edge_server.sessions import Session
from latentwire.errors import SequenceError


def answer(session: Session, first: int, images: int) -> None:
    assert session.admit(first, images) is None
    session.answered(first, images, f"{first}+{images}".encode())


def test_batches_in_order_are_new() -> None:
    session = Session(7, memory_images=100)
    answer(session, 7, 3)
    answer(session, 10, 1)
    assert (session.next_sequence, session.expected) == (11, 11)


def test_a_hole_is_refused_and_changes_nothing() -> None:
    session = Session(0, memory_images=100)
    answer(session, 0, 4)
    with pytest.raises(SequenceError, match="begins at image 5, but 4 is next"):
        session.admit(5, 1)
    answer(session, 4, 1)


def test_a_duplicate_is_not_new_and_its_answer_is_found_again() -> None:
    session = Session(0, memory_images=100)
    answer(session, 0, 4)
    answer(session, 4, 4)
    known = session.admit(4, 4)
    assert known is not None and [k.wire for k in known] == [b"4+4"]
    known = session.admit(0, 8)
    assert known is not None and [k.wire for k in known] == [b"0+4", b"4+4"]
    assert session.expected == 8


def test_a_duplicate_of_what_is_in_work_has_no_answer_yet() -> None:
    session = Session(0, memory_images=100)
    assert session.admit(0, 4) is None
    assert session.admit(0, 4) == []


def test_a_batch_that_is_partly_known_is_refused() -> None:
    session = Session(0, memory_images=100)
    answer(session, 0, 4)
    with pytest.raises(SequenceError, match="resend batches as they were"):
        session.admit(2, 4)


def test_memory_keeps_what_the_sensor_could_lack_and_no_more() -> None:
    session = Session(0, memory_images=10)
    for first in range(0, 100, 4):
        answer(session, first, 4)
    kept = session.resume(0)
    assert [k.first for k in kept] == [88, 92, 96]  # 10 images and the batch that holds the first of them
    assert session.admit(0, 4) == []  # forgotten, yet known: it is not classified again


def test_resuming_resends_what_is_lacked_and_awaits_what_was_not_answered() -> None:
    session = Session(0, memory_images=100)
    answer(session, 0, 4)
    answer(session, 4, 4)
    assert session.admit(8, 4) is None  # received, but its decoding failed
    assert [k.first for k in session.resume(6)] == [4]
    assert (session.next_sequence, session.expected) == (8, 8)
    answer(session, 8, 4)


def test_a_sensor_that_was_answered_elsewhere_is_believed() -> None:
    session = Session(0, memory_images=100)
    answer(session, 0, 4)
    assert session.resume(20) == []
    answer(session, 20, 2)
    assert session.next_sequence == 22


def test_a_long_memory_is_found_again_to_the_byte_and_stays_bounded() -> None:
    session = Session(5, memory_images=320)
    sizes = [1 + n % 5 for n in range(1000)]
    firsts = [5 + sum(sizes[:n]) for n in range(len(sizes))]
    for first, images in zip(firsts, sizes, strict=True):
        answer(session, first, images)
    kept = session.resume(0)
    assert 320 <= sum(k.images for k in kept) <= 320 + 320 // 16 + 5
    assert [k.wire for k in kept] == [f"{k.first}+{k.images}".encode() for k in kept]
    assert [(k.first, k.images) for k in kept] == list(zip(firsts, sizes, strict=True))[-len(kept) :]
    known = session.admit(firsts[-3], sizes[-3] + sizes[-2])
    assert known is not None and [k.first for k in known] == firsts[-3:-1]
    assert [k.first for k in session.resume(firsts[-2])] == firsts[-2:]

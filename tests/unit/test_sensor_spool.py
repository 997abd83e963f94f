"""The spool on disk: what is put in comes out as it was, numbered without a hole, in a file that stays small."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spooling import NOW, items, message, opened, point

from edge_sensor.spool import Spool
from edge_sensor.window import CodedMessage
from latentwire.errors import DiskFullError, SpoolError
from latentwire.messages import Limits


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def fill(spool: Spool, first: int, count: int, room: int = 0) -> list[CodedMessage]:
    """Put messages in one by one; those dropped."""
    return [
        lost for number in range(first, first + count) for lost in spool.turn([message(number)], 0, room, {}).dropped
    ]


def test_a_message_is_sent_again_exactly_as_it_was(path: Path) -> None:
    spool = opened(path)
    sent = spool.turn([message(0), message(1, at=2)], 0, 100, {"behind": 3}).numbered
    spool.close()
    again = opened(path)
    assert again.sent() == sent == [message(0), message(1, at=2)]
    assert again.sent()[1].point == point(2)
    state = again.state
    assert (state.next_sequence, state.coded_images, state.place, state.point) == (8, 8, 8, 2)
    assert state.dropped == {"behind": 3}


def test_what_a_killed_process_committed_is_there(path: Path, tmp_path: Path) -> None:
    spool = opened(path)
    fill(spool, 0, 30)
    copy = tmp_path / "killed.db"
    for end in ("", "-wal"):  # the files as they lie when nobody has closed them
        (tmp_path / f"killed.db{end}").write_bytes((tmp_path / f"s.db{end}").read_bytes())
    assert opened(copy).waiting.images == 120


def test_waiting_messages_are_numbered_in_order_as_there_is_room(path: Path) -> None:
    spool = opened(path)
    fill(spool, 0, 10)
    assert (spool.waiting.messages, spool.waiting.images, spool.waiting.oldest_s) == (10, 40, 990.0)
    first = spool.turn([], 0, 11, {}).numbered
    assert [m.batch.first_sequence for m in first] == [0, 4]
    later = spool.turn([message(10)], 8, 100, {}).numbered
    assert items(later) == items([message(number) for number in range(2, 11)])
    assert [m.batch.first_sequence for m in later] == list(range(8, 44, 4))
    assert spool.waiting.images == 0
    spool.turn([], 44, 0, {})
    assert spool.sent() == []


def test_a_number_is_given_once_though_the_file_is_emptied_and_reopened(path: Path) -> None:
    spool = opened(path)
    for number in range(3):
        (sent,) = spool.turn([message(number)], 4 * number, 100, {}).numbered
        assert sent.batch.first_sequence == 4 * number
    spool.turn([], 12, 0, {})
    spool.close()
    (sent,) = opened(path).turn([message(3)], 12, 100, {}).numbered
    assert sent.batch.first_sequence == 12


@pytest.mark.parametrize(("full", "kept"), [("oldest", "last"), ("newest", "first")])
def test_a_full_spool_drops_what_the_setting_says_and_never_what_was_sent(path: Path, full: str, kept: str) -> None:
    spool = opened(path, max_bytes=64 << 10, full=full)
    sent = spool.turn([message(0), message(1)], 0, 8, {}).numbered
    lost = fill(spool, 2, 800)
    assert path.stat().st_size <= 72 << 10, "a transaction may need a few pages more before it drops"
    assert spool.sent() == sent
    left: list[CodedMessage] = []
    while spool.waiting.messages:
        left += spool.turn([], spool.state.next_sequence, 40, {}).numbered
    assert len(lost) + len(left) == 800
    assert sorted(items(lost) + items(left)) == sorted(items([message(n) for n in range(2, 802)]))
    numbers = sorted(m.batch.crc32 for m in left)
    assert numbers == (list(range(802 - len(left), 802)) if kept == "last" else list(range(2, 2 + len(left))))
    assert len(left) > 300
    assert [m.batch.first_sequence for m in left] == list(range(8, 8 + 4 * len(left), 4))


def test_the_log_beside_the_file_stays_small(path: Path) -> None:
    spool = opened(path)
    for number in range(1200):
        spool.turn([message(number)], 4 * number, 100, {})
    assert path.with_name("s.db-wal").stat().st_size < 800 << 10
    assert path.stat().st_size < 100 << 10, "what is answered is let go of"


def test_a_message_over_the_servers_limits_is_not_sent(path: Path) -> None:
    spool = opened(path)
    fill(spool, 0, 1)
    spool.turn([message(1, images=9)], 0, 0, {})
    fill(spool, 2, 1)
    turned = spool.turn([], 0, 100, {}, Limits(max_images_per_message=8))
    assert items(turned.numbered) == items([message(0), message(2)])
    assert items(turned.too_large) == items([message(1, images=9)])
    assert [m.batch.first_sequence for m in turned.numbered] == [0, 4]
    assert spool.waiting.images == 0


def test_a_message_larger_than_our_own_window_goes_alone(path: Path) -> None:
    spool = opened(path)
    spool.turn([message(0), message(1, images=9)], 0, 0, {})
    assert len(spool.turn([], 0, 6, {}).numbered) == 1
    assert spool.turn([], 0, 2, {}).numbered == []
    assert items(spool.turn([], 4, 6, {}).numbered) == items([message(1, images=9)])


def test_a_full_disk_is_said_and_takes_nothing_away(path: Path) -> None:
    spool = opened(path)
    fill(spool, 0, 50)
    state, waiting = spool.state, spool.waiting
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says what it says of a full disk
    with pytest.raises(DiskFullError, match="no room on the spool's disk; free some"):
        spool.turn([message(number) for number in range(50, 150)], 0, 0, {})
    assert (spool.state, spool.waiting) == (state, waiting)
    assert len(spool.turn([], 0, 40, {}).numbered) == 10, "what needs no room goes on"
    spool._connection.execute("PRAGMA max_page_count = 100000")
    spool.turn([message(number) for number in range(50, 150)], 0, 0, {})
    spool.close()
    assert opened(path).waiting.images == 4 * 140


def test_points_of_answered_messages_are_let_go_of(path: Path) -> None:
    spool = opened(path)
    for number in range(100):
        spool.turn([message(number, at=number + 1)], 4 * number, 4, {})
    assert spool._connection.execute("SELECT count(*) FROM points").fetchone()[0] <= 2
    assert len(spool._points) <= 2
    spool.close()
    assert opened(path).state.point == 100


def test_another_sensor_cannot_use_the_same_file(path: Path) -> None:
    spool = opened(path)
    with pytest.raises(SpoolError, match="in use by another sensor; give each its own --spool"):
        opened(path)
    spool.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 2", "is of format 2, this release reads 1"),
        ("PRAGMA application_id = 7", "is another program's database"),
    ],
)
def test_a_file_that_is_no_spool_of_ours_is_left_as_it_is(path: Path, statement: str, said: str) -> None:
    opened(path).close()
    other = sqlite3.connect(path)
    other.execute(statement)
    other.close()
    before = path.read_bytes()
    with pytest.raises(SpoolError, match=said):
        opened(path)
    assert path.read_bytes() == before


def test_a_folder_or_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="is no file; give another --spool"):
        opened(tmp_path)
    with pytest.raises(SpoolError, match="cannot be opened"):
        opened(tmp_path / "no" / "s.db")


def test_times_hold_in_the_same_boot_though_the_wall_clock_jumps(path: Path) -> None:
    spool = opened(path)
    sent = spool.turn([message(0)], 0, 100, {}).numbered
    spool.close()
    later = replace(NOW, monotonic_s=1100.0, wall_s=0.0)
    assert opened(path, later).sent() == sent


@pytest.mark.parametrize(
    ("wall_s", "age_s"),
    [
        (1e9 + 990 + 500, 500.0),  # 500 s after the capture by the wall clock
        (5.0, 20.0 + 0.75),  # it lost the time: all that is known is that the image is older than this boot
    ],
)
def test_after_a_reboot_the_wall_clock_tells_the_age(path: Path, wall_s: float, age_s: float) -> None:
    spool = opened(path)
    spool.turn([message(0)], 0, 100, {})
    spool.close()
    now = replace(NOW, boot_id="another boot", monotonic_s=20.0, wall_s=wall_s)
    again = opened(path, now)
    (found,) = again.sent()
    assert 20.0 - found.pictures[0].captured_s == pytest.approx(age_s)
    assert found.pictures[0].captured_s + found.clock_offset_s == pytest.approx(1e9 + 990), "when, by the wall"
    again.turn([message(1, captured_s=19.0)], 0, 100, {})
    assert again.sent()[1].pictures[0].captured_s == 19.0


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 3), st.booleans()), max_size=25),
    full=st.sampled_from(["oldest", "newest"]),
)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_each_message_is_waiting_sent_answered_or_dropped_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, bool]], full: str
) -> None:
    path = tmp_path_factory.mktemp("spool") / "s.db"
    spool = opened(path, max_bytes=14 << 10, full=full)
    put, known, lost, answered = 0, [], [], 0
    for new, room, answers, reopen in steps:
        fresh = [message(put + number) for number in range(15 * new)]
        put += len(fresh)
        for _ in range(answers):
            if answered < spool.state.next_sequence:
                answered += 4
        turned = spool.turn(fresh, answered, room, {})
        known += turned.numbered
        lost += turned.dropped
        if reopen:
            spool.close()
            spool = opened(path, max_bytes=14 << 10, full=full)
        assert [m.batch.first_sequence for m in spool.sent()] == list(range(answered, spool.state.next_sequence, 4))
    waiting = spool.waiting.messages
    known += spool.turn([], answered, 10**6, {}).numbered
    assert [m.batch.first_sequence for m in known] == list(range(0, 4 * len(known), 4))
    assert sorted(m.batch.crc32 for m in known + lost) == list(range(put))
    assert waiting <= put
    spool.close()


def test_full_sync_and_normal_sync_are_what_they_say(path: Path) -> None:
    for sync, level in (("normal", 1), ("full", 2)):
        spool = opened(path, sync=sync)
        assert spool._connection.execute("PRAGMA synchronous").fetchone()[0] == level
        assert spool._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        spool.close()
    assert not os.path.exists(f"{path}-shm")

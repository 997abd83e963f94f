"""A damaged spool is set aside and kept, and what can be read of it is saved."""

import random
from pathlib import Path

import pytest
from spooling import NOW, items, message, opened, opened_damaged

from edge_sensor.spool import Spool
from edge_sensor.spool_file import SpoolSettings, open_spool
from edge_sensor.spool_record import pack

COUNT = 300
PAGE = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A spool of 300 messages, closed; the first 20 are sent."""
    path = tmp_path / "s.db"
    spool = opened(path)
    spool.turn([message(number) for number in range(COUNT)], 0, 80, {})
    spool.close()
    return path


def drained(spool: Spool) -> list[str]:
    """All that a spool holds, in order."""
    return items(spool.sent() + spool.turn([], 0, 10**6, {}).numbered)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_page_costs_what_is_on_it_and_no_more(
    path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    whole = path.read_bytes()
    page = chance.randrange(1, len(whole) // PAGE)
    damaged = bytearray(whole)
    damaged[page * PAGE : (page + 1) * PAGE] = chance.randbytes(PAGE)
    path.write_bytes(damaged)
    spool, found = opened_damaged(path)
    if not found:  # a page that is free, or only the sequences' index
        assert drained(spool) == items([message(number) for number in range(COUNT)])
        return
    (aside,) = path.parent.glob("s.db.damaged-*")
    assert aside.read_bytes()[: len(damaged)] == damaged, "it is kept as it was"
    assert "is damaged (" in caplog.text and f"kept as {aside}" in caplog.text
    saved = drained(spool)
    expected = items([message(number) for number in range(COUNT)])
    assert [item for item in expected if item in set(saved)] == saved
    if page > 4:  # below lie the tables' roots
        assert len(saved) > 0.8 * len(expected)
    spool.close()
    opened(path).close()


def test_one_flipped_bit_of_one_message_costs_that_message(path: Path) -> None:
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(pack(message(150))) + 20] ^= 1
    path.write_bytes(damaged)
    spool, found = opened_damaged(path)
    assert found
    assert len(drained(spool)) == 4 * (COUNT - 1)


@pytest.mark.parametrize("content", [b"junk" * 1000, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 2000])
def test_a_file_of_junk_is_kept_and_a_new_spool_begun(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)
    spool, found = open_spool(SpoolSettings(path, 1 << 20, "oldest", "normal"), NOW)
    assert found
    assert spool.waiting.images == 0
    (aside,) = tmp_path.glob("s.db.damaged-*")
    assert aside.read_bytes()[: len(content)] == content
    spool.close()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_short_gives_what_is_left(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: round(share * len(whole))])
    spool, found = opened_damaged(path)
    assert found
    saved = drained(spool)
    assert saved == [item for item in items([message(number) for number in range(COUNT)]) if item in set(saved)]
    spool.close()


def test_an_empty_file_is_a_new_spool(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.touch()
    assert opened(path).waiting.images == 0

"""What a sensor goes on with after it was killed: spool and results file are settled against each other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from spooling import NOW, items, message, opened

import edge_sensor.resume
from edge_sensor.clocks import Now
from edge_sensor.ledger import Ledger
from edge_sensor.results import ResultsFile
from edge_sensor.results_tail import Tail, repair_tail
from edge_sensor.resume import Resumed, resume
from edge_sensor.spool_file import SpoolSettings
from edge_sensor.window import CodedMessage, Unanswered
from latentwire.errors import SpoolError


class Killed:
    """A spool and a results file as a killed process left them: six messages, of which four were sent."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spool, self.results = folder / "s.db", folder / "r.jsonl"
        self.monkeypatch = monkeypatch
        spool = opened(self.spool)
        spool.begin(replace(spool.state, source="digits"))
        self.sent = spool.turn([message(number) for number in range(6)], 0, 16, {"behind": 2}).numbered
        assert len(self.sent) == 4
        self.session = spool.state.session
        spool.close()
        self.results.touch()

    def answer(self, *messages: CodedMessage) -> None:
        results = ResultsFile(self.results, append=True)
        ledger = Ledger(("cat", "dog"), results)
        for m in messages:
            first = m.batch.first_sequence
            images = [Unanswered(first + i, picture, m) for i, picture in enumerate(m.pictures)]
            ledger.answered(images, [0] * 4, [0.5] * 4, 995.0)
        results.close()

    def resume(self, source: str = "digits", now: Now = NOW, classes: tuple[str, ...] = ("cat", "dog")) -> Resumed:
        self.monkeypatch.setattr(edge_sensor.resume, "now", lambda: now)
        return resume(SpoolSettings(self.spool, 1 << 20, "oldest", "normal"), self.results, source, classes)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Killed:
    return Killed(tmp_path, monkeypatch)


def test_what_was_sent_and_not_answered_is_sent_again_as_it_was(killed: Killed) -> None:
    resumed = killed.resume()
    assert resumed.sent == killed.sent
    assert resumed.spool.state.session == killed.session
    assert resumed.spool.state.dropped == {"behind": 2}
    window = resumed.window()
    assert (window.first_sequence, window.next_sequence) == (0, 16)
    assert resumed.spool.waiting.images == 8
    assert resumed.spool.state.place == 24


def test_what_was_answered_and_not_removed_is_not_sent_again(killed: Killed) -> None:
    killed.answer(*killed.sent[:2])
    resumed = killed.resume()
    assert resumed.sent == killed.sent[2:]
    assert resumed.spool.state.session == killed.session
    assert resumed.window().first_sequence == 8


def test_when_all_was_answered_numbers_go_on(killed: Killed) -> None:
    killed.answer(*killed.sent)
    resumed = killed.resume()
    assert resumed.sent == []
    window = resumed.window()
    assert (window.first_sequence, window.next_sequence) == (16, 16)
    (later, _) = resumed.spool.turn([], 16, 100, {}).numbered
    assert later.batch.first_sequence == 16


@pytest.mark.parametrize("cut", [1, 30, 300, 600, 1200])
def test_results_that_were_half_written_are_written_anew(killed: Killed, cut: int) -> None:
    killed.answer(*killed.sent[:2])
    whole = killed.results.read_bytes()
    half = len(whole) // 2
    killed.results.write_bytes(whole[:-cut])
    assert len(whole) - cut > half
    resumed = killed.resume()
    assert resumed.sent == killed.sent[1:]
    assert killed.results.read_bytes() == whole[: len(killed.results.read_bytes())]
    assert [row["sequence"] for row in killed.rows()] == [0, 1, 2, 3]
    resumed.close()
    killed.answer(*killed.sent[1:])
    assert [row["sequence"] for row in killed.rows()] == list(range(16))


def test_sequences_that_went_with_the_power_are_not_given_again(killed: Killed) -> None:
    killed.answer(*killed.sent, *[m.numbered(16 + 4 * i) for i, m in enumerate([message(6), message(7)])])
    resumed = killed.resume(now=replace(NOW, boot_id="another"))
    assert resumed.spool.state.session != killed.session, "the server may remember answers to other images"
    (sent, _) = resumed.spool.turn([], 0, 100, {}).numbered
    assert sent.batch.first_sequence == 24
    assert items([sent]) == items([message(4)])


def test_another_boot_is_another_session_with_the_same_numbers(killed: Killed) -> None:
    resumed = killed.resume(now=replace(NOW, boot_id="another"))
    assert resumed.spool.state.session != killed.session
    assert [m.batch.first_sequence for m in resumed.sent] == [0, 4, 8, 12]
    assert resumed.spool.state.dropped == {}


def test_a_hole_in_what_was_sent_is_closed_in_another_session(killed: Killed) -> None:
    killed.answer(killed.sent[1])
    resumed = killed.resume()
    assert resumed.spool.state.session != killed.session
    assert resumed.sent == []
    sent = resumed.spool.turn([], 0, 100, {}).numbered
    assert items(sent) == items([message(number) for number in (0, 2, 3, 4, 5)])
    assert [m.batch.first_sequence for m in sent] == [16, 20, 24, 28, 32]


def test_a_damaged_spool_goes_on_in_another_session(killed: Killed) -> None:
    content = bytearray(killed.spool.read_bytes())
    content[-1024:] = b"x" * 1024
    killed.spool.write_bytes(content)
    killed.answer(*killed.sent)
    resumed = killed.resume()
    assert resumed.spool.state.session != killed.session
    assert resumed.window().next_sequence == 16


def test_a_source_that_came_to_its_end_is_begun_anew_and_numbers_go_on(killed: Killed) -> None:
    killed.answer(*killed.sent)
    resumed = killed.resume()
    resumed.spool.turn([], 24, 100, {})
    resumed.spool.save(replace(resumed.spool.state, done=True))
    resumed.close()
    again = killed.resume()
    assert again.spool.state.session != killed.session
    assert (again.spool.state.place, again.spool.state.coded_images, again.spool.state.next_sequence) == (0, 0, 24)


def test_another_source_is_read_from_its_start(killed: Killed) -> None:
    resumed = killed.resume(source="clip.mp4")
    assert (resumed.spool.state.place, resumed.spool.state.coded_images) == (0, 0)
    assert resumed.sent == killed.sent
    resumed.close()
    assert killed.resume(source="clip.mp4").spool.state.source == "clip.mp4"


def test_labels_are_never_read_by_another_bundles_classes(killed: Killed) -> None:
    killed.resume().close()
    with pytest.raises(SpoolError, match="a bundle of other classes: run that bundle until they are sent"):
        killed.resume(classes=("dog", "cat"))
    resumed = killed.resume()
    resumed.spool.turn([], 24, 100, {})
    resumed.spool.turn([], 24, 0, {})
    resumed.close()
    assert killed.resume(classes=("dog", "cat")).sent == []


def test_a_lost_spool_does_not_give_numbers_again(killed: Killed) -> None:
    killed.answer(*killed.sent)
    killed.spool.unlink()
    assert killed.resume().spool.state.next_sequence == 16


def test_the_tail_is_found_without_reading_all_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [
        {"sequence": s, "message": s - s % 4, "images_per_message": 4, "item": "é" * (s % 7)} for s in range(20_000)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("not json\n" + "\n".join(lines) + '\n{"item": "x", "dropped": "behind"}\n[1]\n')
    assert repair_tail(path, 19_990 - 2) == Tail(frozenset({19_988, 19_992, 19_996}), 20_000)
    assert repair_tail(path, None).next_sequence == 20_000
    assert repair_tail(path, 0).messages == frozenset(range(0, 20_000, 4))
    assert repair_tail(tmp_path / "none", 5) == Tail()
    (tmp_path / "empty").touch()
    assert repair_tail(tmp_path / "empty", 5) == Tail()

"""A watched folder: each image once, when it is whole."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mjpeg_server import jpeg
from PIL import Image

from edge_sensor.sources import Dropped, Found, Frame, Idle, SourceOptions, open_source, watched
from edge_sensor.sources.watched import WatchedFolder
from latentwire.bundle import InputSpec
from latentwire.errors import SourceError

SPEC = InputSpec(8, 8, 1, "L")
CLASSES = ("cat", "dog")


class Watch:
    """A watched folder whose time passes only when it is looked at."""

    def __init__(self, root: Path) -> None:
        self.now_s = 0.0
        self.folder = WatchedFolder(root, SPEC, CLASSES, lambda: self.now_s, self._sleep)
        self._found: Iterator[Found] = iter(self.folder)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def looks(self, count: int) -> list[Found]:
        """What comes in so many looks, half a second apart."""
        found: list[Found] = []
        for _ in range(count):
            found += itertools.takewhile(lambda each: not isinstance(each, Idle), self._found)
        return found


def items(found: list[Found]) -> list[str]:
    assert all(isinstance(each, Frame) for each in found), found
    return [each.item for each in found if isinstance(each, Frame)]


def put(path: Path, level: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)


def test_what_is_there_is_taken_first_and_then_what_comes(tmp_path: Path) -> None:
    put(tmp_path / "b.png")
    put(tmp_path / "dog" / "a.png")
    watch = Watch(tmp_path)
    assert not watch.folder.live
    found = watch.looks(4)
    assert items(found) == ["b.png", "dog/a.png"]
    assert [each.truth for each in found if isinstance(each, Frame)] == [None, 1]
    assert watch.looks(20) == []
    put(tmp_path / "new" / "c.png")
    put(tmp_path / "new" / ".hidden.png")
    assert items(watch.looks(4)) == ["new/c.png"]
    assert watch.looks(20) == []


def test_a_file_that_is_still_being_written_is_not_read_half(tmp_path: Path) -> None:
    """Written in ten parts with pauses, the last of which is longer than a file needs to settle."""
    content = jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 1), np.uint8))
    watch, path = Watch(tmp_path), tmp_path / "slow.jpg"
    step = len(content) // 10
    for start in range(0, len(content) - step, step):
        with path.open("ab") as file:
            file.write(content[start : start + step])
        assert watch.looks(2) == []
    assert watch.looks(6) == [], "it cannot be read yet, and is not given up"
    path.write_bytes(content)
    assert items(watch.looks(4)) == ["slow.jpg"]


def test_a_file_that_is_renamed_into_place_is_taken_once(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    put(tmp_path / ".part.png")
    assert watch.looks(8) == []
    (tmp_path / ".part.png").rename(tmp_path / "whole.png")
    assert items(watch.looks(8)) == ["whole.png"]


def test_a_broken_file_is_waited_for_and_then_dropped_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    watch = Watch(tmp_path)
    assert watch.looks(10) == []
    assert watch.looks(60) == [Dropped("a.png", "ImageError")]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    put(tmp_path / "latest.png", 10)
    watch = Watch(tmp_path)
    (first,) = watch.looks(4)
    put(tmp_path / "next.png", 200)
    (tmp_path / "next.png").rename(tmp_path / "latest.png")
    (second,) = watch.looks(4)
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert (first.item, int(first.image[0, 0, 0])) == ("latest.png", 10)
    assert (second.item, int(second.image[0, 0, 0])) == ("latest.png", 200)


def test_a_file_that_goes_before_it_is_read_is_nothing(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    watch = Watch(tmp_path)
    watch.looks(1)
    (tmp_path / "a.png").unlink()
    assert watch.looks(60) == []


def test_a_folder_that_is_away_for_a_while_is_not_read_again(tmp_path: Path) -> None:
    root = tmp_path / "mounted"
    put(root / "a.png")
    watch = Watch(root)
    assert items(watch.looks(4)) == ["a.png"]
    root.rename(tmp_path / "away")
    assert watch.looks(10) == []
    (tmp_path / "away").rename(root)
    put(root / "b.png")
    assert items(watch.looks(6)) == ["b.png"]


def test_what_is_remembered_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_FORGET_OVER", 5)
    watch = Watch(tmp_path)
    for number in range(30):
        put(tmp_path / f"{number}.png")
        assert items(watch.looks(4)) == [f"{number}.png"]
        (tmp_path / f"{number}.png").unlink()
    assert len(watch.folder._seen) <= 7


def test_only_a_folder_is_watched(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    options = SourceOptions(watch=True)
    assert open_source(str(tmp_path), SPEC, CLASSES, None, options).description.endswith("watched")
    for name in (tmp_path / "a.png", "digits", "http://cam/x"):
        with pytest.raises(SourceError, match="only a folder can be watched"):
            open_source(str(name), SPEC, CLASSES, None, options)

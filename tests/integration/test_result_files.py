"""The files that results are written to: whole groups or none, also after a crash; a full disk holds replies back."""

import asyncio
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import factories
import pytest
from raw_sensor import RawSensor, serving

from edge_server import result_sink
from edge_server.result_sink_files import ResultFile, Row, open_file
from latentwire.errors import LatentwireError


def row(sequence: int) -> Row:
    return Row(1.0, "cam", "s1", sequence, "cat", 3, 0.5, "full", "anchored", 0.1, 5.0)


def sequences(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


def test_a_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    file = open_file(path)
    file.write([row(0), row(1)])
    file.close()
    with path.open("a") as torn:
        torn.write('{"time": 1.0, "sensor": "ca')
    again = open_file(path)
    again.write([row(2)])
    again.close()
    assert sequences(path) == [0, 1, 2]


def test_a_group_that_does_not_fit_is_not_there_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "r.jsonl", os.write
    file = open_file(path)
    file.write([row(0)])
    calls: list[int] = []

    def full(descriptor: int, content: Any) -> int:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.write([row(1), row(2)])
    monkeypatch.undo()
    assert len(calls) == 2
    file.write([row(3)])
    file.close()
    assert sequences(path) == [0, 3]


def test_one_file_has_one_writer(tmp_path: Path) -> None:
    file = open_file(tmp_path / "r.jsonl")
    with pytest.raises(LatentwireError, match="r.jsonl"):
        open_file(tmp_path / "r.jsonl")
    file.close()
    open_file(tmp_path / "r.jsonl").close()


class Disk:
    """A file on a disk that may be full."""

    def __init__(self, file: ResultFile) -> None:
        self._file = file
        self.full = False
        self.refused = 0

    def write(self, rows: Sequence[Row]) -> None:
        if self.full:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(rows)

    def close(self) -> None:
        self._file.close()


async def test_a_full_disk_holds_replies_back_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disks: list[Disk] = []

    def opened(path: Path) -> Disk:
        disks.append(Disk(open_file(path)))
        return disks[-1]

    monkeypatch.setattr(result_sink, "open_file", opened)
    bundle, path = factories.make_bundle(tmp_path / "b"), tmp_path / "r.jsonl"
    async with serving(bundle.path, results=path) as (_, address), RawSensor(address, bundle) as sensor:
        (disk,) = disks
        await sensor.join()
        disk.full = True
        await sensor.send(sensor.batch(0, 4))
        heard = asyncio.create_task(sensor.hear_results(0, 4))
        async with asyncio.timeout(30):
            while disk.refused < 2:
                await asyncio.sleep(0.01)
        assert not heard.done()
        assert path.read_text() == ""
        disk.full = False
        await asyncio.wait_for(heard, 30)
        assert sequences(path) == [0, 1, 2, 3]
    said = [record.getMessage() for record in caplog.records if "results cannot be written" in record.getMessage()]
    assert len(said) == 1
    assert "make room" in said[0]

"""Results on disk besides the stream: there before the reply, and once."""

import json
import sqlite3
from pathlib import Path

import factories
import pytest
from raw_sensor import RawSensor, serving, truth


@pytest.mark.parametrize("name", ["r.jsonl", "r.sqlite"])
async def test_an_answer_is_on_disk_before_its_reply_and_once(tmp_path: Path, name: str) -> None:
    bundle, path = factories.make_bundle(tmp_path / "b"), tmp_path / name
    async with serving(bundle.path, results=path) as (_, address):
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            await sensor.send(sensor.batch(0, 4), sensor.batch(4, 4))
            await sensor.hear_results(0, 4)
            await sensor.hear_results(4, 4)
            assert read(path) == [("cam", "s1", i, label) for i, label in enumerate(truth(0, 4) + truth(4, 4))]
        async with RawSensor(address, bundle) as sensor:
            await sensor.join(next_sequence=4)
            await sensor.hear_results(4, 4)
    assert len(read(path)) == 8


def read(path: Path) -> list[tuple[str, str, int, int]]:
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [(r["sensor"], r["session"], r["sequence"], r["label_index"]) for r in rows]
    return sqlite3.connect(path).execute("SELECT sensor, session, sequence, label_index FROM results").fetchall()

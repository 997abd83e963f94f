"""A server whose decoder was replaced serves the sensors that were deployed before: real processes, real messages."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import factories
import pytest
from raw_sensor import RawSensor, serving
from sensor_rig import make_world, rows_of

from latentwire.bundle import Bundle, load_bundle
from latentwire.local_run import serve

IMAGES = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bundle`` is what the sensors hold, ``upgraded`` the same with a decoder that is told of the message."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    factories.replace_decoder(load_bundle(folder / "bundle"), folder / "upgraded", factories.told_decoder_onnx())
    return folder


def send(world: Path, server: str, results: Path, rate_scale: float) -> list[dict[str, Any]]:
    """What a sensor's process with the old bundle is answered by a server's process with another."""
    with serve(str(world / server)) as (target, _):
        command = ["sensor", "--bundle", str(world / "bundle"), "--server", target, "--source", str(world / "images")]
        command += ["--model", "anchored", "--rate-scale", str(rate_scale), "--name", "mast", "--no-progress"]
        subprocess.run(
            [sys.executable, "-m", "latentwire", *command, "--results", str(results)], check=True, timeout=60
        )
    return sorted(rows_of(results), key=lambda row: int(row["sequence"]))


def test_a_sensor_from_before_the_upgrade_is_served(world: Path, tmp_path: Path) -> None:
    before = send(world, "bundle", tmp_path / "before.jsonl", factories.RATE_DEFAULT)
    after = send(world, "upgraded", tmp_path / "after.jsonl", factories.RATE_DEFAULT)
    assert len(before) == len(after) == IMAGES
    assert {row["level"] for row in after} == {0, 1}
    for old, new in zip(before, after, strict=True):
        assert (old["sequence"], old["level"], old["label"]) == (new["sequence"], new["level"], new["label"])
    # the answers are the new decoder's; this one's to the bare anchors are 1 but for a float's last digit
    assert any(old["probability"] != new["probability"] for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("known", ["", "abc"])
async def test_a_sensor_of_another_part_is_refused(world: Path, known: str) -> None:
    """The digest of the sensor's part, or the whole bundle's, must be ours."""
    old: Bundle = load_bundle(world / "bundle")
    async with serving(world / "upgraded") as (_, address):
        async with RawSensor(address, old) as sensor:
            await sensor.send(sensor.hello(sensor_digest=known))
            _, details = await sensor.refusal()
            assert details.startswith("BundleMismatchError: the sensor runs bundle 'quadrants'")
        async with RawSensor(address, old) as sensor:
            await sensor.join(sensor_digest=old.sensor_digest)
            await sensor.send(sensor.batch(0, 4))
            await sensor.hear_results(0, 4)

"""What a sensor keeps its messages within, so that none takes a server long."""

from pathlib import Path

import factories
import numpy as np
import pytest
from sensor_server import Runner, honest, make_world, serving

from edge_sensor.encoder import Latents
from edge_sensor.session import Session
from edge_sensor.window import CodedMessage, Picture, Window
from latentwire.codec import latent_codec
from latentwire.messages import LatentBatch, OperatingPointName
from latentwire.operating_point import OperatingPoint
from latentwire.wire import MAX_OPERATING_POINTS


class Idle:
    """An encoder that nothing is given to."""

    def encode(self, images: np.ndarray) -> Latents:
        raise AssertionError("an image was encoded")


def message(number: int) -> CodedMessage:
    name = OperatingPointName(number, "full", "gaussian", 1.0 + number, bytes(8))
    return CodedMessage(LatentBatch(number - 1, 1, number, b"x", 7), name, (Picture("i", None, 0.0, 1, 4.0),), 80)


@pytest.mark.parametrize("waiting", [1, MAX_OPERATING_POINTS - 1, 3 * MAX_OPERATING_POINTS])
def test_a_hello_names_no_more_points_than_a_server_takes(waiting: int, tmp_path: Path) -> None:
    bundle = factories.make_bundle(tmp_path / "b")
    point = OperatingPoint.derive(bundle.codec_parameters("full", "gaussian"), "full", "gaussian", 2.0)
    window = Window()
    for number in range(1, waiting + 1):
        window.add(message(number))
    session = Session("s", "cam", bundle, point, Idle(), 64, 4, lambda _: None, window, waiting + 1)
    named = [name.id for name in session.hello().operating_points]
    oldest = list(range(1, waiting + 1))[: MAX_OPERATING_POINTS - 1]
    assert named == [*oldest, waiting + 1]


async def test_a_message_holds_no_more_entries_than_the_format_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_codec, "MAX_ENTRIES", 3 * factories.D + 1)
    make_world(tmp_path)
    runner = Runner(tmp_path, tmp_path)
    async with serving(honest) as (fake, server):
        await runner.run(server, limit=20, images_per_message=8)
    runner.answered_once(20)
    assert {batch.images for batch in fake.streams[0].batches} == {2, 3}

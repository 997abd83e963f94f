"""2,000 images while ``latentwire ctl`` turns the knob five times: each answered once, each exactly as coded."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import numpy as np
from command import ctl
from sensor_rig import check_answered_once, decoded_by_payload, make_world, sensor_config, serving

from edge_sensor import run_sensor
from edge_sensor.window import CodedMessage
from latentwire.codec.latent_codec import EncodedBatch

IMAGES = 2000
RATES = (0.5, 8.0, 1.0, 4.0, 2.5)


async def test_the_rate_turns_in_mid_stream_and_every_batch_decodes_to_its_symbols(tmp_path: Path) -> None:
    make_world(tmp_path)
    results = tmp_path / "results.jsonl"
    coded: list[tuple[CodedMessage, EncodedBatch]] = []
    turned = asyncio.Event()

    def observe(message: CodedMessage, batch: EncodedBatch) -> None:
        coded.append((message, batch))
        # As slow as a small camera, and never to the end before the knob has turned five times.
        time.sleep(0.01 if turned.is_set() or message.end < IMAGES - 400 else 1.0)

    with decoded_by_payload() as decoded:
        async with serving(tmp_path) as port:
            config = sensor_config(
                tmp_path, results, port, limit=IMAGES, images_per_message=8, model="anchored", max_unanswered_images=64
            )
            running = asyncio.create_task(asyncio.to_thread(run_sensor, config, observe))
            while not coded:
                await asyncio.sleep(0.02)
            printed = [await ctl(port, "rate", "set", "mast", str(rate)) for rate in RATES]
            turned.set()
            report = await running
    assert (report.images_sent, report.images_answered, report.dropped) == (IMAGES, IMAGES, {})
    for rate, text in zip(RATES, printed, strict=True):
        assert f"rate scale {rate:g} " in text.splitlines()[1]
    rows = check_answered_once(results, IMAGES)
    order = list(dict.fromkeys(row["rate_scale"] for row in rows))
    assert order[-5:] == list(RATES), "five turns, in their order"
    bits = {rate: [row["ideal_bits"] for row in rows if row["rate_scale"] == rate] for rate in RATES}
    assert np.mean(bits[8.0]) > np.mean(bits[0.5])
    _compare(coded, decoded)


def _compare(coded: list, decoded: dict) -> None:
    """The server decoded every message to the very symbols that the sensor coded."""
    assert sum(Counter(message.batch.images for message, _ in coded).elements()) == IMAGES
    for message, batch in coded:
        got = decoded[message.batch.payload, message.batch.crc32]
        assert (got.anchor == batch.anchor).all()
        assert (got.level == batch.level).all()
        assert (got.indices == batch.indices).all()

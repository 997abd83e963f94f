"""What a spool costs: bytes an image at rest, and what a commit writes and how long it takes.

    python -m benchmarks.spool --folder DIR_ON_THE_DISK_IN_QUESTION

Codes the digits as a sensor does and keeps every message by a commit of its own, as a sensor without a link does.
``days_a_mb`` is how long a megabyte lasts at one image a second; ``written_bytes`` is what a commit hands to the
kernel, /proc/self/io's wchar.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from edge_sensor.clocks import now
from edge_sensor.coder import MessageCoder, Tuning
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.sources import Frame, open_source
from edge_sensor.spool_file import SpoolSettings, Sync, open_spool
from edge_sensor.tuner import Tuner
from edge_sensor.window import CodedMessage
from latentwire.bundle import load_bundle
from latentwire.messages import OperatingPointName
from latentwire.operating_point import OperatingPoints
from latentwire.report import write_json

DAY_S = 86_400


def coded(bundle_name: str, images: int, count: int) -> Iterator[CodedMessage]:
    """So many messages of so many digits each, the digits going round."""
    bundle = load_bundle(bundle_name, "sensor")
    tuner = Tuner(bundle, OperatingPoints(bundle), threads=1, batch_images=images)
    point = tuner.point(None, None, None)
    name = OperatingPointName(1, point.variant, point.model, point.rate_scale, point.digest)
    tuning = Tuning(point, name, tuner.encoder(point.variant), bundle)
    queue = FrameQueue(images)
    coder = MessageCoder(queue, lambda item, reason: None, delay_s=60.0)
    source = open_source("digits", bundle.manifest.input, bundle.manifest.classes)
    frames = [found for found in source if isinstance(found, Frame)]
    for number in range(count):
        for place in range(number * images, (number + 1) * images):
            queue.put(frames[place % len(frames)], live=False)
        yield from coder.next_messages(tuning, number * images, images, 1 << 20) or ()


def measure(folder: Path, bundle: str, sync: Sync, images: int, count: int) -> dict[str, float | int | str]:
    """A row for one way of syncing and one size of message."""
    messages = list(coded(bundle, images, count))
    spool, _ = open_spool(SpoolSettings(folder / f"{sync}-{images}.db", 1 << 40, "oldest", sync), now())
    empty, before, took_s = spool.waiting.bytes, _written_bytes(), []
    for message in messages:
        started_s = time.perf_counter()
        spool.turn([message], 0, 0, {})
        took_s.append(time.perf_counter() - started_s)
    written = _written_bytes() - before
    bytes_an_image = (spool.waiting.bytes - empty) / spool.waiting.images
    payload = sum(len(message.batch.payload) for message in messages) / spool.waiting.images
    spool.close()
    p50, p99 = np.percentile(np.array(took_s) * 1000, [50, 99])
    return {
        "sync": sync,
        "images_per_message": images,
        "images": images * len(messages),
        "payload_bytes": round(payload, 2),
        "spool_bytes": round(bytes_an_image, 1),
        "days_a_mb": round(1e6 / bytes_an_image / DAY_S, 2),
        "commit_p50_ms": round(float(p50), 3),
        "commit_p99_ms": round(float(p99), 3),
        "written_bytes": round(written / len(messages)),
    }


def _written_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def main() -> None:
    """Print a row for each way of syncing and each size of message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--folder", type=Path, help="on the disk in question; default: the temporary one")
    parser.add_argument("--bundle", default="digits")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="latentwire-spool-", dir=asked.folder) as folder:
        for sync in get_args(Sync):
            for images in (1, 4, 16, 64):
                rows.append(measure(Path(folder), asked.bundle, sync, images, asked.messages))
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()))
    write_json(asked.json, rows)


if __name__ == "__main__":
    main()

"""A sensor and a server for a million images: does either grow?

    python -m benchmarks.soak --images 1000000

The sensor goes round the digits, with a spool and a results file, on loopback. Both processes' resident memory is read
as images are answered. The first tenth is warm-up; the means of the others are compared with that of the second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from latentwire.control_client import ControlClient
from latentwire.errors import LatentwireError
from latentwire.report import write_json

POLL_S = 0.1
TENTHS = 10
ALLOWED = 0.02  # of the memory after warm-up


@dataclass(frozen=True, slots=True)
class Sample:
    """Both processes' resident memory when so many images were answered."""

    images: int
    sensor_bytes: int
    server_bytes: int


@dataclass(frozen=True, slots=True)
class Soak:
    """``samples`` in the order of time; ``answered_once`` says whether every image has one result."""

    samples: tuple[Sample, ...]
    images: int
    elapsed_s: float
    answered_once: bool


def run_soak(images: int, bundle: str = "digits", images_per_message: int = 16) -> Soak:
    """Send so many images and watch; LatentwireError if a process ends badly."""
    with tempfile.TemporaryDirectory(prefix="latentwire-soak-") as name:
        folder = Path(name)
        server = _start("server", "--bundle", bundle, "--listen", "127.0.0.1:0")
        sensor = None
        try:
            assert server.stdout is not None  # it was asked for
            target = server.stdout.readline().split()[-1]
            options = ["--bundle", bundle, "--server", target, "--source", "digits", "--limit", str(images)]
            options += ["--spool", f"{folder}/spool.db", "--results", f"{folder}/results.jsonl", "--no-progress"]
            started_s = time.monotonic()
            sensor = _start("sensor", *options, "--images-per-message", str(images_per_message))
            samples = _watch(sensor, server, target)
            elapsed_s = time.monotonic() - started_s
            if sensor.returncode != 0:
                raise LatentwireError(f"the sensor ended with status {sensor.returncode}; its message is above")
            return Soak(tuple(samples), images, elapsed_s, _answered_once(folder / "results.jsonl", images))
        finally:
            for process in (sensor, server):
                if process is not None:
                    process.kill()
                    process.communicate()


def summary(soak: Soak) -> list[dict[str, float | str | int | bool]]:
    """A row a process: its resident memory after warm-up, and the largest departure from it, as a share."""
    rows: list[dict[str, float | str | int | bool]] = []
    for process in ("sensor", "server"):
        means = tenths([(sample.images, getattr(sample, f"{process}_bytes")) for sample in soak.samples], soak.images)
        warm, later = means[1], np.array(means[2:])
        rows.append(
            {
                "process": process,
                "images": soak.images,
                "images_per_s": round(soak.images / soak.elapsed_s, 1),
                "resident_mb": round(warm / 1e6, 2),
                "resident_last_mb": round(means[-1] / 1e6, 2),
                "growth": round(means[-1] / warm - 1, 5),
                "largest_departure": round(float(np.abs(later / warm - 1).max()), 5),
                "answered_once": soak.answered_once,
            }
        )
    return rows


def tenths(samples: Sequence[tuple[int, int]], images: int) -> list[float]:
    """The mean memory in each tenth of the images; LatentwireError if a tenth has no sample."""
    parts: list[list[int]] = [[] for _ in range(TENTHS)]
    for answered, resident in samples:
        parts[min(TENTHS - 1, TENTHS * answered // images)].append(resident)
    if not all(parts):
        raise LatentwireError("the soak was too short to be watched: ask for more images")
    return [float(np.mean(part)) for part in parts]


def _watch(sensor: "subprocess.Popen[str]", server: "subprocess.Popen[str]", target: str) -> list[Sample]:
    """Samples until the sensor ends."""
    samples = []
    watched, other = psutil.Process(sensor.pid), psutil.Process(server.pid)
    with ControlClient(target) as control:
        while sensor.poll() is None:
            for info in control.list_sensors():
                samples.append(Sample(info.images_answered, watched.memory_info().rss, other.memory_info().rss))
            time.sleep(POLL_S)
    return [sample for sample in samples if sample.sensor_bytes]  # of a process that has just ended, nothing is known


def _answered_once(results: Path, images: int) -> bool:
    seen = np.zeros(images, np.int64)
    with results.open() as lines:
        for line in lines:
            row = json.loads(line)
            if "label" in row:
                seen[row["sequence"]] += 1
    return bool((seen == 1).all())


def _start(command: str, *options: str) -> "subprocess.Popen[str]":
    run = [sys.executable, "-m", "latentwire", "--log-level", "warning", command, *options]
    return subprocess.Popen(run, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Print a row a process; exit status 1 if one grew, or an image has not one result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--images-per-message", type=int, default=16)
    parser.add_argument("--bundle", default="digits")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = summary(run_soak(asked.images, asked.bundle, asked.images_per_message))
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    write_json(asked.json, rows)
    if not all(row["answered_once"] and float(row["largest_departure"]) <= ALLOWED for row in rows):
        sys.exit(f"memory departed by more than {ALLOWED:.0%}, or an image has not one result: see above")


if __name__ == "__main__":
    main()

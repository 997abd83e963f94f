"""A real server and a real sensor as processes of this machine, with every byte between them counted at the socket.

The demo and the benchmarks both stand on this: what they print, a user's own processes would do.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentwire.control_client import ControlClient
from latentwire.errors import LatentwireError, ServerUnavailableError
from latentwire.messages import SensorInfo
from latentwire.relay import CountingRelay

STOP_TIMEOUT_S = 20.0
POLL_S = 0.01
SENSOR = "demo"


@dataclass(frozen=True, slots=True)
class Stream:
    """A running pair: ``target`` is the server's own HOST:PORT, ``sensor`` the sensor's process."""

    target: str
    control: ControlClient
    sensor: subprocess.Popen[bytes]
    relay: CountingRelay
    results: Path

    def info(self) -> SensorInfo | None:
        """What the server knows of the sensor; None before it has said hello."""
        return next((info for info in self.control.list_sensors() if info.name == SENSOR), None)

    def wait_for(self, images: int) -> None:
        """Wait until so many images are answered; LatentwireError if the sensor ends before."""
        while (info := self.info()) is None or info.images_answered < images:
            if self.sensor.poll() is not None:
                raise LatentwireError(f"the sensor ended (status {self.sensor.returncode}) before {images} images")
            time.sleep(POLL_S)

    def finish(self, *, stop: bool = False) -> list[dict[str, Any]]:
        """Wait for the sensor's own end, or make it ``stop`` once what it sent is answered.

        Its results, one an answered image, in sequence order.
        """
        if stop:
            self.sensor.terminate()
        if self.sensor.wait() != 0:
            raise LatentwireError(f"the sensor failed with status {self.sensor.returncode}; its message is above")
        rows = [json.loads(line) for line in self.results.read_text().splitlines()]
        return sorted((row for row in rows if "label" in row), key=lambda row: int(row["sequence"]))


@contextmanager
def stream(
    bundle: str,
    source: str,
    limit: int,
    images_per_message: int = 16,
    sensor_options: Sequence[str] = (),
    server_options: Sequence[str] = (),
) -> Iterator[Stream]:
    """Start a server, a counting relay and a sensor that sends ``limit`` images through it."""
    with tempfile.TemporaryDirectory(prefix="latentwire-") as folder:
        results = Path(folder) / "results.jsonl"
        with serve(bundle, server_options) as (target, port), CountingRelay("127.0.0.1", port) as relay:
            options = ["--bundle", bundle, "--server", f"127.0.0.1:{relay.port}", "--source", source, "--name", SENSOR]
            options += ["--limit", str(limit), "--results", str(results), "--no-progress"]
            options += ["--images-per-message", str(images_per_message), *sensor_options]
            sensor = _start("sensor", options)
            try:
                with ControlClient(target) as control:
                    yield Stream(target, control, sensor, relay, results)
            finally:
                _stop(sensor)


@contextmanager
def serve(bundle: str, options: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """Start a server process on a free port; its HOST:PORT and its port."""
    server = _start("server", ["--bundle", bundle, "--listen", "127.0.0.1:0", *options], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None  # it was asked for
        said = server.stdout.readline().decode()  # empty when the process ends before it listens
        if not said.startswith("listening on "):
            raise ServerUnavailableError(f"the server did not start (status {server.wait()}); its message is above")
        target = said.split()[-1]
        yield target, int(target.rpartition(":")[2])
    finally:
        _stop(server)
        if server.stdout is not None:
            server.stdout.close()


def _start(command: str, options: Sequence[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
    quiet = ["--log-level", "warning"]
    return subprocess.Popen([sys.executable, "-m", "latentwire", *quiet, command, *options], stdout=stdout)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def summarise(results: Sequence[dict[str, Any]], relay: CountingRelay, round_images: int = 1) -> list[dict[str, Any]]:
    """One row for each rate scale in the order of sending, with the field names of ``--json`` output.

    Of a source that goes round after ``round_images``, accuracy is over the whole rounds at that rate scale, so that no
    image counts more often than another; over all images where there is no whole one.

    A row's wire bits are all bytes the sensor wrote to its socket from the moment its first message of that rate was
    handed to gRPC to the moment the first of the next was; the handshake before the first message is not in it.
    """
    starts = [
        i
        for i, row in enumerate(results)
        if i == 0 or (row["rate_scale"], row["model"]) != (results[i - 1]["rate_scale"], results[i - 1]["model"])
    ]
    ends = [*starts[1:], len(results)]
    rows = []
    for start, end in zip(starts, ends, strict=True):
        part = results[start:end]
        sent_until = results[end]["sent_s"] if end < len(results) else float("inf")
        wire_bytes = relay.up_bytes_at(sent_until) - relay.up_bytes_at(part[0]["sent_s"])
        rows.append(_row(part, wire_bytes, round_images))
    return rows


def _row(part: Sequence[dict[str, Any]], wire_bytes: int, round_images: int) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in part]))

    latency = np.percentile([row["latency_ms"] for row in part], [50, 95, 99]).tolist()
    whole = len(part) // round_images * round_images or len(part)
    known = [row for row in part[:whole] if row["truth"] is not None]
    seconds = part[-1]["sent_s"] - part[0]["sent_s"]
    return {
        "variant": part[0]["variant"],
        "model": part[0]["model"],
        "rate_scale": part[0]["rate_scale"],
        "images": len(part),
        "images_per_message": part[0]["images_per_message"],
        "accuracy": float(np.mean([row["label"] == row["truth"] for row in known])) if known else None,
        "share_refined": float(np.mean([row["level"] > 0 for row in part])),
        "ideal_bits": mean("ideal_bits"),
        "payload_bits": mean("payload_bits"),
        "grpc_bits": mean("grpc_bits"),
        "wire_bits": 8 * wire_bytes / len(part),
        "latency_p50_ms": latency[0],
        "latency_p95_ms": latency[1],
        "latency_p99_ms": latency[2],
        "images_per_s": len(part) / seconds if seconds > 0 else None,
    }

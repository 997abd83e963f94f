"""What was coded and spooled with one bundle is answered, although its sensor then starts with another."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.switch import make_other
from edge_sensor.status import running
from latentwire.bundle import load_bundle
from latentwire.control_client import ControlClient
from latentwire.local_run import serve


def sensor(folder: Path, target: str, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "latentwire", "--log-level", "warning", "sensor", "--server", target]
    command += ["--source", "digits", "--name", "mast", "--limit", str(1 << 40), "--no-progress"]
    command += ["--spool", str(folder / "spool.db"), "--results", str(folder / "results.jsonl")]
    command += ["--run-dir", str(folder / "run"), *options]
    return subprocess.Popen(command)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def answered(control: ControlClient, images: int) -> bool:
    return any(info.images_answered >= images for info in control.list_sensors())


def spooled(folder: Path) -> tuple[str, int]:
    """The bundle that the sensor runs, and the images that it has coded and has no answer for."""
    return next((v["model_id"], v["backlog_images"] + v["unanswered_images"]) for v in running(folder / "run"))


def test_a_message_is_answered_with_the_bundle_that_coded_it(tmp_path: Path) -> None:
    own = load_bundle("digits")
    made = make_other(own, tmp_path / "library" / "new", 1)
    assert made.sensor_digest != own.sensor_digest
    library: Sequence[str] = ("--library", str(tmp_path / "library"))
    with serve("digits", library) as (target, port), ControlClient(target) as control:
        first = sensor(tmp_path, target, "--bundle-store", str(tmp_path / "store"))
        try:
            wait_until(lambda: answered(control, 64))
            control.push_bundle("mast", "digits-1")
        except BaseException:
            first.kill()
            raise
    try:
        wait_until(lambda: spooled(tmp_path) > ("digits-1", 100))
    finally:
        first.kill()  # and no bundle store from here on: it starts with its own bundle again
        first.wait()
    with (
        serve("digits", (*library, "--listen", f"127.0.0.1:{port}")) as (target, _),
        ControlClient(target) as control,
    ):
        second = sensor(tmp_path, target)
        try:
            wait_until(lambda: answered(control, 600))
            assert [info.model_id for info in control.list_sensors()] == ["digits"]
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait() == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    labels = {row["sequence"]: row["label"] == row["truth"] for row in rows if "label" in row}
    assert Counter(Counter(row["sequence"] for row in rows if "label" in row).values()).keys() == {1}
    assert sorted(labels) == list(range(len(labels)))
    assert sum(labels.values()) / len(labels) > 0.95

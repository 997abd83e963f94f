"""Videos, cameras and watched folders through ``latentwire sensor`` to a server and back, as processes."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from command import Done, latentwire
from mjpeg_server import Camera, filming, jpeg
from numpy.typing import NDArray
from PIL import Image
from rtsp_server import filming_rtsp

from latentwire.datasets import load_test
from latentwire.local_run import serve

DIGITS = load_test("digits")
SIDE = 64


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve("digits") as (target, _):
        yield target


def picture(number: int) -> NDArray[np.uint8]:
    """A digit as a camera would show it, (64, 64, 3)."""
    grey = Image.fromarray(DIGITS.images[number, :, :, 0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB"))


def make_video(path: Path, pictures: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())


def command(server: str, source: object, results: Path, *options: object) -> list[str]:
    given = ["--server", server, "--source", source, "--results", results, "--run-dir", results.parent, *options]
    return [sys.executable, "-m", "latentwire", "--log-format", "json", "sensor", *map(str, given)]


def run(
    server: str, source: object, results: Path, *options: object
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results of a sensor that ended by itself, and its log."""
    done = subprocess.run(command(server, source, results, *options), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return rows_of(results), [json.loads(line) for line in done.stderr.splitlines()]


def rows_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def accuracy(rows: list[dict[str, Any]], digit_of: Callable[[int], int]) -> float:
    """Of answered images, whose item ends in #number."""
    right = [int(row["label"]) == DIGITS.labels[digit_of(int(row["item"].partition("#")[2]))] for row in rows]
    return float(np.mean(right))


def test_a_video_file_is_sent_to_its_end(server: str, tmp_path: Path) -> None:
    make_video(tmp_path / "film.mp4", 150)
    rows, log = run(server, tmp_path / "film.mp4", tmp_path / "results.jsonl", "--name", "film")
    assert [row["item"] for row in rows] == [f"film.mp4#{number}" for number in range(150)]
    assert accuracy(rows, lambda number: number) > 0.9
    last = log[-1]
    assert (last["message"], last["images_answered"], last["dropped"]) == ("progress", 150, {})


def test_of_a_video_with_a_broken_tail_what_is_whole_is_sent(server: str, tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    make_video(path, 200)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    rows, log = run(server, path, tmp_path / "results.jsonl", "--name", "torn", "--no-progress")
    answered = [row for row in rows if "label" in row]
    assert 60 < len(answered) < 140
    assert accuracy(answered, lambda number: number) > 0.9
    assert {row["dropped"] for row in rows if "label" not in row} == {"BrokenTailError"}
    (warning,) = [record for record in log if record["level"] == "warning"]
    assert f"video film.mkv is broken after {len(answered)} pictures" in warning["message"]


def test_a_stream_is_sent_across_hang_ups(server: str, tmp_path: Path) -> None:
    with filming(Camera([jpeg(picture(number)) for number in range(40)], 0.005, hang_up_after=40)) as camera:
        options = ("--name", "stream", "--limit", 100, "--no-progress")
        rows, log = run(server, camera.url, tmp_path / "results.jsonl", *options)
    answered = [row for row in rows if "label" in row]
    assert len({row["item"] for row in answered}) == len(answered) == 100
    assert accuracy(answered, lambda number: number % 40) > 0.8
    assert camera.connections == 3
    assert sum("is lost" in record["message"] for record in log) == 2
    assert "secret" not in json.dumps(log)


def test_an_rtsp_stream_is_sent_until_told_to_stop(server: str, tmp_path: Path) -> None:
    with filming_rtsp([picture(number) for number in range(40)], rounds=5) as url:
        rows, _ = run(server, url, tmp_path / "results.jsonl", "--name", "rtsp", "--limit", 100, "--no-progress")
    answered = [row for row in rows if "label" in row]
    assert len({row["item"] for row in answered}) == len(answered) == 100
    assert accuracy(answered, lambda number: number % 40) > 0.8


def wait_for(condition: Callable[[], bool], sensor: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + 200
    while not condition():
        assert sensor.poll() is None, "the sensor ended"
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def status(folder: Path, *options: str) -> Done:
    return latentwire("sensor", "status", "--run-dir", folder, *options)


def test_a_running_sensor_tells_how_it_is_and_stops_when_told(server: str, tmp_path: Path) -> None:
    results, port = tmp_path / "results.jsonl", free_port()
    options = ("--name", "mast", "--fps", 20, "--motion", 5, "--metrics", f"127.0.0.1:{port}", "--no-progress")
    still = [jpeg(picture(0))] * 10 + [jpeg(picture(1))] * 10
    with filming(Camera(still, 0.01)) as camera:
        sensor = subprocess.Popen(command(server, camera.url, results, *options), stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(rows_of(results)) >= 5, sensor)
            told = status(tmp_path, "--json")
            (vitals,) = json.loads(told.out)
            words = status(tmp_path, "--name", "mast").out
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
        finally:
            sensor.terminate()
            assert sensor.wait(60) == 0
    assert vitals["connected"] and vitals["report"]["images_answered"] >= 5
    assert vitals["images_skipped"]["fps"] > 0 and vitals["images_skipped"]["unchanged"] > 0
    assert vitals["encode_images"] >= 5 and vitals["encode_seconds"] > 0
    assert words.startswith(f"mast (process {sensor.pid}, ")
    assert "latentwire_sensor_connected 1.0" in metrics
    assert "secret" not in told.out + words + metrics
    gone = status(tmp_path)
    assert gone.out == ""
    assert gone.error.startswith(f"no sensor runs here (looked in {tmp_path})")
    assert not list(tmp_path.glob("*.sensor"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def test_a_watched_folder_gives_what_comes_and_what_was_there(server: str, tmp_path: Path) -> None:
    folder, results = tmp_path / "in", tmp_path / "results.jsonl"
    folder.mkdir()
    Image.fromarray(picture(0)).save(folder / "first#0.png")
    options = ("--name", "folder", "--watch", "--limit", 3, "--no-progress", "--images-per-message", 1)
    sensor = subprocess.Popen(command(server, folder, results, *options), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(rows_of(results)) == 1, sensor)
        for number in (1, 2):
            Image.fromarray(picture(number)).save(folder / "part.tmp", "PNG")
            os.rename(folder / "part.tmp", folder / f"next#{number}.png")
        assert sensor.wait(120) == 0
    finally:
        sensor.kill()
        sensor.wait()
    items = [row["item"] for row in rows_of(results)]
    assert items == ["first#0.png", "next#1.png", "next#2.png"]

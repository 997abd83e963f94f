"""Cameras and streams: lost, torn, blank, silent, and back again."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mjpeg_server import Camera, filming, jpeg
from rtsp_server import filming_rtsp
from test_sensor_sources import RGB, make_video

from edge_sensor.channel import Backoff
from edge_sensor.sources import Dropped, Found, Frame, Idle, Lost, Skipped, live, open_source, without_password
from edge_sensor.sources.live import LiveSource, network
from latentwire.errors import SourceError

av = pytest.importorskip("av")


def pictures(count: int = 8) -> list[bytes]:
    """Noise around a level that rises by ten."""
    noise = np.random.default_rng(0)
    return [jpeg((20 + 10 * n + noise.integers(0, 20, (48, 64, 3))).astype(np.uint8)) for n in range(count)]


def source(camera: Camera, timeout_s: float = 5.0) -> LiveSource:
    return LiveSource(network(camera.url), RGB, timeout_s, Backoff(0.01, 0.05))


def until(found: Iterator[Found], frames: int) -> list[Found]:
    """What comes until so many frames have; idle moments are left out."""
    taken: list[Found] = []
    while sum(isinstance(each, Frame) for each in taken) < frames:
        each = next(found)
        if not isinstance(each, Idle):
            taken.append(each)
    return taken


def test_a_stream_gives_its_pictures_as_they_come() -> None:
    with filming(Camera(pictures())) as camera:
        stream = source(camera)
        assert stream.live
        found = until(iter(stream), 8)
    assert [each.item for each in found if isinstance(each, Frame)] == [f"live.mjpg#{n}" for n in range(8)]
    means = [each.image.mean() for each in found if isinstance(each, Frame)]
    assert np.abs(np.diff(means) - 10).max() < 3
    assert all(each.image.shape == (16, 16, 3) for each in found if isinstance(each, Frame))


def test_a_stream_that_hangs_up_is_opened_again_and_numbers_on(caplog: pytest.LogCaptureFixture) -> None:
    with filming(Camera(pictures(), hang_up_after=3)) as camera:
        found = until(iter(source(camera)), 7)
        assert camera.connections == 3
    assert [type(each) for each in found] == [Frame] * 3 + [Lost] + [Frame] * 3 + [Lost] + [Frame]
    assert [each.item for each in found if isinstance(each, Frame)] == [f"live.mjpg#{n}" for n in range(7)]
    assert sum("is lost" in message for message in caplog.messages) == 2
    assert sum("is there again" in message for message in caplog.messages) == 2
    assert "secret" not in caplog.text


def test_a_stream_that_is_not_there_yet_is_waited_for() -> None:
    with filming(Camera(pictures())) as camera:
        port = camera.port
    stream = iter(source(camera))
    assert isinstance(next(stream), Lost), "counted once, however many attempts it takes"
    assert {type(next(stream)) for _ in range(5)} == {Idle}
    with filming(Camera(pictures()), port):
        assert [type(each) for each in until(stream, 2)] == [Frame, Frame]


def test_a_stream_that_falls_silent_is_opened_again() -> None:
    with filming(Camera(pictures())) as camera:
        stream = iter(source(camera, timeout_s=0.4))
        until(stream, 3)
        camera.silent = True
        while not isinstance(next(stream), Lost):
            pass
        camera.silent = False
        assert isinstance(until(stream, 1)[-1], Frame)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_torn_picture_is_dropped_alone(share: float) -> None:
    sent = pictures()
    sent[2] = sent[2][: int(share * len(sent[2]))]
    with filming(Camera(sent)) as camera:
        found = until(iter(source(camera)), 7)
    assert found[2] == Dropped("live.mjpg#2", "ImageError")
    assert [type(each) for each in found].count(Dropped) == 1


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_of_one_shade_is_skipped(level: int) -> None:
    sent = pictures(4)
    sent[1] = jpeg(np.full((48, 64, 3), level, np.uint8))
    with filming(Camera(sent)) as camera:
        found = until(iter(source(camera)), 3)
    assert found[1] == Skipped("blank")


def test_a_camera_that_goes_is_opened_again(tmp_path: Path) -> None:
    """A file in place of the device, for want of one: FFmpeg reads both alike."""
    place = live.camera(make_video(tmp_path / "camera.mp4"), container_format="mp4")
    stream = LiveSource(place, RGB, 5.0, Backoff(0.01, 0.02))
    found = until(iter(stream), 30)
    lost = [number for number, each in enumerate(found) if isinstance(each, Lost)]
    assert lost[:2] == [12, 25], "after each round of the film"
    assert len({each.item for each in found if isinstance(each, Frame)}) == 30


def test_pauses_grow_and_are_cut_into_steps() -> None:
    slept: list[float] = []
    stream = iter(LiveSource(network("http://127.0.0.1:1/"), RGB, 0.5, Backoff(1.0, 4.0, max), slept.append))
    for found in stream:
        if isinstance(found, Idle) and sum(slept) >= 11.0:
            break
    assert max(slept) <= 0.5
    assert sum(slept) == pytest.approx(1.0 + 2.0 + 4.0 + 4.0)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("rtsp://admin:pass@10.0.0.9:554/h264?token=x#y", "rtsp://10.0.0.9:554/h264"),
        ("http://cam.local/video.mjpg", "http://cam.local/video.mjpg"),
        ("/data/a@b?c.png", "/data/a@b?c.png"),
        ("0", "0"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(given: str, shown: str) -> None:
    assert without_password(given) == shown


def test_an_rtsp_stream_is_read_and_opened_again() -> None:
    noise = np.random.default_rng(0)
    sent = [(20 + 10 * n + noise.integers(0, 20, (48, 64, 3))).astype(np.uint8) for n in range(10)]
    with filming_rtsp(sent, rounds=2) as url:
        found = until(iter(LiveSource(network(url), RGB, 5.0, Backoff(0.01, 0.05))), 25)
    assert [type(each) for each in found].count(Lost) == 1
    seen = [each for each in found if isinstance(each, Frame)]
    assert [each.item for each in seen] == [f"camera#{n}" for n in range(25)]
    means = np.array([each.image.mean() for each in seen])
    assert np.abs(means - 29.5 - 10 * (np.arange(25) % 10)).max() < 3


def test_rtsp_goes_over_tcp_and_is_live() -> None:
    assert network("rtsp://cam/h264").options["rtsp_transport"] == "tcp"
    assert open_source("rtsp://cam/h264", RGB, ("a", "b")).live


def test_a_camera_that_is_not_there_is_said() -> None:
    with pytest.raises(SourceError, match="no camera /dev/video97"):
        open_source("97", RGB, ("a", "b"))

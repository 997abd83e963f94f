"""Every kind of source: what it yields, what it leaves out, how it fails."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_sensor.sources import Dropped, Found, Frame, av_input, open_source
from latentwire.bundle import InputSpec
from latentwire.errors import DataError, SourceError

GREY = InputSpec(8, 8, 1, "L")
RGB = InputSpec(16, 16, 3, "RGB")
CLASSES = ("cat", "dog")


def put_image(path: Path, value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def read(name: object, spec: InputSpec = GREY, classes: tuple[str, ...] = CLASSES) -> list[Found]:
    return list(open_source(str(name), spec, classes))


def frames(found: list[Found]) -> list[Frame]:
    return [frame for frame in found if isinstance(frame, Frame)]


def test_digits_are_the_held_out_ones_with_their_truth() -> None:
    classes = tuple(str(digit) for digit in range(10))
    found = frames(read("digits", GREY, classes))
    assert len(found) >= 350
    assert {frame.truth for frame in found} == set(range(10))
    assert found[0].item == "digits/0"
    assert all(frame.image.shape == (8, 8, 1) for frame in found)


def test_truth_follows_the_class_names_not_their_order() -> None:
    classes = tuple(str(digit) for digit in reversed(range(5)))
    plain = frames(read("digits", GREY, tuple(str(digit) for digit in range(10))))
    turned = frames(read("digits", GREY, classes))
    assert [f.truth for f in turned] == [None if p.truth is None or p.truth > 4 else 4 - p.truth for p in plain]


def test_a_data_set_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        open_source("cifar10", RGB, CLASSES, tmp_path)


def test_a_folder_is_read_in_order_with_the_truth_of_its_subfolders(tmp_path: Path) -> None:
    for item in ("dog/b.png", "cat/deep/a.jpg", "cat/c.PNG", "bird/x.png", "top.bmp"):
        put_image(tmp_path / item)
    put_image(tmp_path / ".hidden" / "h.png")
    put_image(tmp_path / ".h.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = frames(read(tmp_path))
    truths = [("bird/x.png", None), ("cat/c.PNG", 0), ("cat/deep/a.jpg", 0), ("dog/b.png", 1), ("top.bmp", None)]
    assert [(frame.item, frame.truth) for frame in found] == truths


def test_a_folder_is_read_again_from_the_start(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    source = open_source(str(tmp_path), GREY, CLASSES)
    assert [frame.item for frame in source] == [frame.item for frame in source] == ["a.png"]


def test_a_broken_image_is_dropped_and_the_rest_is_read(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    put_image(tmp_path / "c.png")
    found = read(tmp_path)
    assert found[1] == Dropped("b.png", "ImageError")
    assert [frame.item for frame in frames(found)] == ["a.png", "c.png"]


def test_one_image_file_is_a_source(tmp_path: Path) -> None:
    put_image(tmp_path / "one.png", 77)
    (frame,) = frames(read(tmp_path / "one.png"))
    assert (frame.item, frame.truth) == ("one.png", None)
    assert np.unique(frame.image).tolist() == [77]


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing to see")
    with pytest.raises(SourceError, match="put images in it"):
        open_source(str(tmp_path), GREY, CLASSES)


@pytest.mark.parametrize("name", ["nowhere", "/no/such/file.png", "digit"])
def test_a_source_that_is_nothing_says_what_there_is(name: str) -> None:
    with pytest.raises(SourceError, match="name a file, a folder, a camera's index, a stream's URL, or a data set"):
        open_source(name, GREY, CLASSES)


def test_a_path_that_the_system_refuses_says_why() -> None:
    with pytest.raises(SourceError, match="cannot look at the source .*: File name too long"):
        open_source("a" * 5000, GREY, CLASSES)


def make_video(path: Path, pictures: int = 12, codec: str = "mpeg4", **options: str) -> Path:
    av = pytest.importorskip("av")
    noise = np.random.default_rng(3)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(pictures):
            pixels = (20 + 5 * number + noise.integers(-9, 10, (32, 32, 3))).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_video_gives_its_pictures_in_order(tmp_path: Path) -> None:
    found = frames(read(make_video(tmp_path / "film.mp4"), RGB))
    assert [frame.item for frame in found] == [f"film.mp4#{number}" for number in range(12)]
    means = [int(frame.image.mean()) for frame in found]
    assert np.abs(np.array(means) - 20 - 5 * np.arange(12)).max() < 5
    assert all(frame.image.shape == (16, 16, 3) for frame in found)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("film.mkv", "mpeg4", {}),
        ("film.mkv", "libx264", {}),
        ("film.webm", "libvpx", {}),
        ("film.avi", "mpeg4", {}),
        ("film.mp4", "mpeg4", {"movflags": "faststart"}),
    ],
)
def test_a_video_with_a_broken_tail_gives_what_is_whole_and_says_so(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    path = make_video(tmp_path / name, 60, codec, **options)
    assert not [each for each in read(path, RGB) if isinstance(each, Dropped)], "whole"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    found = read(path, RGB)
    assert 5 < len(frames(found)) < 60
    assert found[-1] == Dropped(f"{name}#tail", "BrokenTailError")
    assert {drop.reason for drop in found[:-1] if isinstance(drop, Dropped)} <= {"ImageError"}
    (message,) = caplog.messages
    assert message.startswith(f"video {name} is broken after {len(found) - 1} pictures: it states ")


def test_a_torn_picture_of_a_video_is_not_sent(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mkv", 60, "libx264")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    found = read(path, RGB)
    assert "ImageError" in {drop.reason for drop in found if isinstance(drop, Dropped)}
    assert len(frames(found)) > 20


def test_a_video_of_jpegs(tmp_path: Path) -> None:
    found = frames(read(make_jpegs(tmp_path / "film.avi"), RGB))
    means = [int(frame.image.mean()) for frame in found]
    assert np.abs(np.array(means) - 20 - 5 * np.arange(12)).max() < 5


def make_jpegs(path: Path) -> Path:
    av = pytest.importorskip("av")
    noise = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for number in range(12):
            pixels = (20 + 5 * number + noise.integers(-9, 10, (32, 32, 3))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_large_picture_comes_out_as_a_file_of_it_would(tmp_path: Path) -> None:
    """It takes a way of its own, for speed."""
    av = pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 255, (9, 16, 3)).astype(np.uint8)
    picture = Image.fromarray(noise).resize((640, 360), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.png")
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    (filmed,), (read_,) = (frames(read(tmp_path / name, RGB)) for name in ("film.mkv", "picture.png"))
    difference = np.abs(filmed.image.astype(int) - read_.image.astype(int))
    assert difference.max() <= 6
    assert difference.mean() < 1.5


def test_a_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "plain.mp4").rename("rec 12:30.mp4")
    assert len(frames(read("rec 12:30.mp4", RGB))) == 12


def test_a_damaged_picture_of_a_video_costs_no_more_than_itself(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.avi", 40)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    found = read(path, RGB)
    assert len(frames(found)) > 30


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_file_that_is_no_video_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(str(path), RGB, CLASSES)


def test_a_sound_file_holds_no_pictures(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(SourceError, match="no pictures"):
        open_source(str(path), RGB, CLASSES)


def test_without_pyav_a_video_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    (tmp_path / "film.mp4").write_bytes(b"x")
    monkeypatch.setattr(av_input, "import_module", missing)
    with pytest.raises(SourceError, match="pip install av"):
        open_source(str(tmp_path / "film.mp4"), RGB, CLASSES)

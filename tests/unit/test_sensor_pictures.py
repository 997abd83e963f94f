"""Pictures of every odd kind become the bundle's input, or an ImageError."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_sensor.sources.picture import MAX_PIXELS, fit_array, read_picture
from latentwire.bundle import InputSpec
from latentwire.errors import ImageError

RGB = InputSpec(8, 8, 3, "RGB")
GREY = InputSpec(8, 8, 1, "L")


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def one_colour(mode: str, colour: object, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [RGB, GREY])
@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("rgb.png", one_colour("RGB", (200, 200, 200))),
        ("grey.png", one_colour("L", 200)),
        ("rgba.png", one_colour("RGBA", (200, 200, 200, 255))),
        ("grey-alpha.png", one_colour("LA", (200, 255))),
        ("palette.png", one_colour("RGB", (200, 200, 200)).quantize(4)),
        ("animation.gif", one_colour("L", 200)),
        ("sixteen.png", one_colour("I;16", 200 << 8)),
        ("thirty-two.tif", one_colour("I", 200 << 8)),
        ("float.tif", one_colour("F", 200.0)),
        ("float-unit.tif", one_colour("F", 200 / 255)),
        ("cmyk.jpg", one_colour("CMYK", (55, 55, 55, 0))),
        ("ycbcr.jpg", one_colour("RGB", (200, 200, 200))),
        ("wide.png", one_colour("RGB", (200, 200, 200), (31, 5))),
        ("large.jpg", one_colour("RGB", (200, 200, 200), (1200, 900))),
        ("lab.tif", one_colour("RGB", (200, 200, 200)).convert("YCbCr")),
    ],
)
def test_any_mode_and_size_is_read(tmp_path: Path, name: str, picture: Image.Image, spec: InputSpec) -> None:
    image = read_picture(save(tmp_path / name, picture), spec)
    assert image.shape == (8, 8, spec.channels)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - 200).max() <= 2


def test_one_bit_pictures_are_black_and_white(tmp_path: Path) -> None:
    picture = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    image = read_picture(save(tmp_path / "bits.png", picture), GREY)
    assert (image[:, :, 0] == np.eye(8) * 255).all()


def test_transparent_pixels_lie_over_black(tmp_path: Path) -> None:
    picture = one_colour("RGBA", (200, 100, 50, 0))
    picture.putpixel((3, 2), (200, 100, 50, 255))
    image = read_picture(save(tmp_path / "clear.png", picture), RGB)
    assert image[2, 3].tolist() == [200, 100, 50]
    assert image.sum() == 350


def test_a_transparent_palette_entry_lies_over_black(tmp_path: Path) -> None:
    picture = one_colour("P", 1)
    picture.putpalette([0, 0, 0, 250, 250, 250])
    image = read_picture(save(tmp_path / "clear.gif", picture, transparency=1), RGB)
    assert image.max() == 0


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = one_colour("L", 0)
    picture.paste(255, (0, 0, 8, 4))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: bright on the right
    image = read_picture(save(tmp_path / "turned.png", picture, exif=exif), GREY)[:, :, 0]
    assert image[:, 4:].min() > 250
    assert image[:, :4].max() < 5


def test_colour_becomes_luma(tmp_path: Path) -> None:
    image = read_picture(save(tmp_path / "red.png", one_colour("RGB", (255, 0, 0))), GREY)
    assert np.unique(image).tolist() == [76]


def test_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    image = read_picture(save(tmp_path / "stripes.png", Image.fromarray(stripes)), GREY)
    assert np.abs(image.astype(int) - 127).max() < 20


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_truncated_file_is_an_image_error(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"cut.{kind}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"cut\..* replace or remove"):
        read_picture(path, RGB)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_a_file_that_is_no_image_is_an_image_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError):
        read_picture(path, RGB)


def test_a_file_that_is_gone_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        read_picture(tmp_path / "gone.png", RGB)


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 10_000, 20_000])
def test_a_huge_picture_is_refused_without_being_decoded(tmp_path: Path, side: int) -> None:
    path = save(tmp_path / "bomb.png", Image.new("1", (side, side)))
    with pytest.raises(ImageError):
        read_picture(path, GREY)


def test_floats_that_are_no_numbers_are_an_image_error(tmp_path: Path) -> None:
    pixels = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(ImageError, match="NaN"):
        read_picture(save(tmp_path / "nan.tif", Image.fromarray(pixels)), GREY)


def test_an_array_that_fits_is_taken_as_it_is() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert fit_array(image, GREY) is image


@pytest.mark.parametrize(("channels", "spec"), [(1, RGB), (3, GREY), (3, RGB)])
def test_other_arrays_are_converted(channels: int, spec: InputSpec) -> None:
    image = fit_array(np.full((32, 16, channels), 90, np.uint8), spec)
    assert image.shape == (8, 8, spec.channels)
    assert np.unique(image).tolist() == [90]

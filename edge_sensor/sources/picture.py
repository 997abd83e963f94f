"""A picture of any kind -> the uint8 array a bundle's encoder takes.

- The whole picture is kept and stretched to the input's size (bilinear, antialiased): nothing the camera saw
  is lost.
- EXIF orientation is applied. Of an animation, the first picture counts.
- Transparent pixels are laid over black.
- 16-bit grey keeps its high byte (0..65535 -> 0..255), unless no pixel is above 255: then it is taken as 8-bit.
  32-bit integers are taken as 16-bit ones; floats as 0..1 if none is above 1, else as 0..255.
- Colour becomes grey by ITU-R 601 luma, grey becomes three equal channels, CMYK goes by Pillow's conversion.

``training.folders`` reads the images it trains on by the same rules.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from latentwire.bundle import InputSpec
from latentwire.errors import ImageError

MAX_PIXELS = 1 << 26  # 64 Mpixel: a decoder must not take the sensor's whole memory
DRAFT_FACTOR = 4  # a large picture is decoded or first scaled to about so many times the size that is needed

# Between Pillow's two limits on pixels it only warns; a sensor refuses.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def read_picture(path: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """The picture in a file as (height, width, channels) of ``spec``; ImageError if it cannot be read."""
    return _read(path, str(path), spec)


def picture_from_bytes(content: bytes, name: str, spec: InputSpec) -> NDArray[np.uint8]:
    """As ``read_picture``, of a file's ``content``; ``name`` is for the error."""
    return _read(io.BytesIO(content), name, spec)


def _read(file: Path | io.BytesIO, name: str, spec: InputSpec) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError(f"{name}: {picture.width} x {picture.height} pixels are too many; scale it down")
            side = DRAFT_FACTOR * max(spec.width, spec.height)
            picture.draft(None, (side, side))
            picture.load()
            return fit_picture(ImageOps.exif_transpose(picture), spec)
    except ImageError:
        raise
    except Exception as error:  # on damaged files Pillow's readers raise whatever they stumble over
        raise ImageError(f"{name} cannot be read as an image ({error}); replace or remove it") from error


def fit_picture(picture: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """A loaded picture as uint8 (height, width, channels) of ``spec``."""
    picture = _eight_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    if picture.mode != spec.channel_order:
        picture = picture.convert("RGB").convert(spec.channel_order)
    if picture.size != (spec.width, spec.height):
        picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.array(picture, np.uint8).reshape(spec.height, spec.width, spec.channels)


def fit_array(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """An image (H, W, 1 or 3) uint8 as (height, width, channels) of ``spec``.

    The array itself where it fits.
    """
    if image.shape == (spec.height, spec.width, spec.channels):
        return image
    return fit_picture(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), spec)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Pillow clips deeper pixels at 255 when it converts them, so they are scaled here."""
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    pixels = np.asarray(picture)
    if picture.mode == "F":
        if not np.isfinite(pixels).all():
            raise ImageError("an image of floats holds NaN or infinity")
        pixels = np.clip(pixels * (255.0 if pixels.max() <= 1 else 1.0), 0, 255).round()
    else:
        pixels = np.clip(pixels, 0, 65535)
        pixels = pixels >> 8 if pixels.max() > 255 else pixels
    return Image.fromarray(pixels.astype(np.uint8))

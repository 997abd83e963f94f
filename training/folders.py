"""A data set from a folder of class folders, or from PATH/train and PATH/test that hold the same class folders."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from latentwire.datasets import Dataset
from latentwire.errors import DataError

HELD_OUT = 0.2
SPLIT_SEED = 0
MIN_IMAGES = 4  # of a class: enough that both splits and a validation split see it
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def load_folder(path: Path, split: str, size: tuple[int, int] | None) -> Dataset:
    """The images of ``split`` ("train" or "test"), resized to ``size`` (height, width), None for the commonest size
    of the training images.

    The classes are the sub-folders in the order of their names. Where ``path`` holds the folders train and test they
    are the splits; elsewhere a fixed stratified fifth is held out. Images are grey when every one is, else RGB.
    DataError for a folder without classes, a class with too few images, or an image that cannot be read.
    """
    parts = _splits(path)
    chosen = parts[split]
    names = sorted({file.parent.name for file in parts["train"]})
    shape, grey = _shape(parts["train"], size)
    images = np.stack([_read(file, shape, grey) for file in chosen])
    labels = np.array([names.index(file.parent.name) for file in chosen], np.int64)
    return Dataset(f"folder:{path}", images, labels, tuple(names))


def _splits(path: Path) -> dict[str, list[Path]]:
    """Each split's files, in the order of their names."""
    if not path.is_dir():
        raise DataError(f"no folder {str(path)!r}: give a folder that holds a folder of images for each class")
    if (path / "train").is_dir() and (path / "test").is_dir():
        train, test = _classes(path / "train", MIN_IMAGES), _classes(path / "test", 1)
        if set(train) != set(test):
            odd = ", ".join(sorted(set(train) ^ set(test)))
            raise DataError(f"{path / 'train'} and {path / 'test'} must hold the same classes; they differ in: {odd}")
        return {"train": _flatten(train.values()), "test": _flatten(test.values())}
    classes = _classes(path, MIN_IMAGES)
    held = {}
    for number, (name, files) in enumerate(sorted(classes.items())):
        order = np.random.default_rng((SPLIT_SEED, number)).permutation(len(files))
        held[name] = {files[i] for i in order[: max(1, round(HELD_OUT * len(files)))]}
    every = [(name, file) for name, files in sorted(classes.items()) for file in files]
    return {
        "train": [file for name, file in every if file not in held[name]],
        "test": [file for name, file in every if file in held[name]],
    }


def _flatten(lists: Iterable[list[Path]]) -> list[Path]:
    return [file for files in lists for file in files]


def _classes(path: Path, least: int) -> dict[str, list[Path]]:
    """Each class folder's image files; DataError if there are fewer than two classes or ``least`` images in one."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(folders) < 2:
        raise DataError(f"{path} holds {len(folders)} class folders: it needs at least two, each with its images")
    found = {}
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if len(files) < least:
            raise DataError(f"the class folder {folder} holds {len(files)} images: it needs at least {least}")
        found[folder.name] = files
    return found


def _shape(files: Sequence[Path], size: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
    """The (height, width) to resize to, and whether every image is grey."""
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for file in files:
        try:
            with Image.open(file) as image:
                sizes[(image.height, image.width)] += 1
                grey = grey and (image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;"))
        except _READ_ERRORS as error:
            raise _unreadable(file, error) from None
    # the commonest; among equals the smallest, so that the order of files does not decide
    return size or min(sizes, key=lambda key: (-sizes[key], key)), grey


def _read(file: Path, shape: tuple[int, int], grey: bool) -> NDArray[np.uint8]:
    """One image as uint8 (H, W, C), turned upright, its transparency over black, resized."""
    height, width = shape
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            flat = _eight_bits(image).convert("L" if grey else "RGB")
            if flat.size != (width, height):
                flat = flat.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(flat, np.uint8)
    except _READ_ERRORS as error:
        raise _unreadable(file, error) from None
    return pixels.reshape(height, width, -1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey scaled down: Pillow's own conversion clips it to white. Transparency goes over black."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8 if values.max(initial=0) > 255 else values, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")
    return image


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error).splitlines()[0]
    return DataError(f"the image {file} cannot be read ({reason}): repair it or take it out of the folder")

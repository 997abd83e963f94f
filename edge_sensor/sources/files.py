"""An image file, or a folder of them, as a source."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from edge_sensor.sources.frames import Dropped, Frame
from edge_sensor.sources.picture import read_picture
from latentwire.bundle import InputSpec
from latentwire.errors import ImageError, SourceError


def image_suffixes() -> frozenset[str]:
    """File name endings, in lower case with the dot, that Pillow can open."""
    extensions = Image.registered_extensions()
    return frozenset(end for end, kind in extensions.items() if kind in Image.OPEN and kind not in _NO_PICTURES)


_NO_PICTURES = ("MPEG",)  # Pillow names the format, but reads no picture from it


class FileReader:
    """Reads image files below ``root``, the folder or the one file that was named.

    The nearest folder below ``root`` named as a class of the bundle is an image's truth.
    """

    def __init__(self, root: Path, spec: InputSpec, classes: tuple[str, ...]) -> None:
        self._root = root
        self._spec = spec
        self._known = {label: index for index, label in enumerate(classes)}

    def item(self, path: Path) -> str:
        """What an image is called."""
        return str(path.relative_to(self._root)) if path != self._root else path.name

    def read(self, path: Path) -> Frame:
        """The image in a file; ImageError if it cannot be read."""
        item = self.item(path)
        image = read_picture(path, self._spec)
        return Frame(item, image, self._truth(Path(item)), time.monotonic())

    def _truth(self, item: Path) -> int | None:
        return next((self._known[p.name] for p in item.parents if p.name in self._known), None)


class FileSource:
    """Image files in a given order, read one at a time.

    ``root`` is the file, or the folder, whose files are taken recursively in sorted order; hidden ones and
    those whose ending no image has are left out. Raises SourceError if there is nothing to read.
    """

    live = False

    def __init__(self, root: Path, spec: InputSpec, classes: tuple[str, ...]) -> None:
        self._reader = FileReader(root, spec, classes)
        self._paths = [root] if root.is_file() else images_below(root)
        if not self._paths:
            raise SourceError(f"the folder {root} holds no image files; put images in it or name another source")
        self.description = f"{root}, {len(self._paths)} images"

    def __iter__(self) -> Iterator[Frame | Dropped]:
        """Each file once; one that cannot be read is dropped as ImageError."""
        for path in self._paths:
            try:
                yield self._reader.read(path)
            except ImageError as error:
                yield Dropped(self._reader.item(path), error.error_name)


def images_below(root: Path) -> list[Path]:
    """Image files below a folder, sorted; hidden ones, and those in hidden folders, are left out."""
    suffixes = image_suffixes()
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = (name for name in files if not name.startswith("."))
        found += (Path(folder, name) for name in names if Path(name).suffix.lower() in suffixes)
    return sorted(found)

"""Where images come from: ``open_source`` finds the kind by the name."""

from pathlib import Path

from edge_sensor.sources.dataset import DatasetSource
from edge_sensor.sources.files import FileSource, image_suffixes
from edge_sensor.sources.frames import Dropped, Frame, Source
from edge_sensor.sources.video import CameraSource, VideoSource
from latentwire.bundle import InputSpec
from latentwire.errors import SourceError

__all__ = ["Dropped", "Frame", "Source", "open_source"]

_DATASETS = ("digits", "cifar10", "cifar100")


def open_source(name: str, spec: InputSpec, classes: tuple[str, ...], data_root: Path | None = None) -> Source:
    """The source of that name, opened; SourceError or DataError if it cannot be.

    ``name`` is a data set, a camera's index, or the path of an image, a video or a folder of images; ``spec``
    and ``classes`` are the bundle's. A file whose ending no image has is taken for a video.
    """
    if name in _DATASETS:
        return DatasetSource(name, data_root, spec, classes)
    if name.isascii() and name.isdigit():
        return CameraSource(Path(f"/dev/video{int(name)}"), spec)
    path = Path(name)
    if path.is_dir():
        return FileSource(path, spec, classes)
    if not path.is_file():
        known = ", ".join(_DATASETS)
        raise SourceError(f"no source {name!r}: name a file, a folder, a camera's index, or a data set ({known})")
    if path.suffix.lower() in image_suffixes():
        return FileSource(path, spec, classes)
    return VideoSource(path, spec)

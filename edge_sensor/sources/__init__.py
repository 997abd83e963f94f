"""Where images come from: ``open_source`` finds the kind by the name."""

from pathlib import Path

from edge_sensor.sources.dataset import DatasetSource
from edge_sensor.sources.files import FileSource, image_suffixes
from edge_sensor.sources.frames import Dropped, Found, Frame, Idle, Lost, Skipped, Source, SourceOptions
from edge_sensor.sources.gates import GatedSource
from edge_sensor.sources.live import SCHEMES, LiveSource, camera, network, without_password
from edge_sensor.sources.video import VideoSource
from edge_sensor.sources.watched import WatchedFolder
from latentwire.bundle import InputSpec
from latentwire.errors import SourceError

__all__ = [
    "Dropped",
    "Found",
    "Frame",
    "Idle",
    "Lost",
    "Skipped",
    "Source",
    "SourceOptions",
    "open_source",
    "without_password",
]

_DATASETS = ("digits", "cifar10", "cifar100")
_ALL = SourceOptions()


def open_source(
    name: str,
    spec: InputSpec,
    classes: tuple[str, ...],
    data_root: Path | None = None,
    options: SourceOptions = _ALL,
) -> Source:
    """The source of that name, opened; SourceError or DataError if it cannot be.

    ``name`` is a data set, a camera's index or device file, the URL of an RTSP or HTTP stream, or the path of an
    image, a video or a folder of images; ``spec`` and ``classes`` are the bundle's. A file whose ending no image has
    is taken for a video.
    """
    try:
        source = _open(name, spec, classes, data_root, options)
    except OSError as error:  # a folder on the way that this user may not enter, say
        raise SourceError(f"cannot look at the source {without_password(name)!r}: {error.strerror or error}") from error
    plain = options.every == 1 and options.fps is None and options.motion is None
    return source if plain else GatedSource(source, options)


def _open(
    name: str, spec: InputSpec, classes: tuple[str, ...], data_root: Path | None, options: SourceOptions
) -> Source:
    path = Path(name)
    if options.watch:
        if not path.is_dir():
            raise SourceError(
                f"only a folder can be watched, and {without_password(name)!r} is none; leave --watch out"
            )
        return WatchedFolder(path, spec, classes)
    if name in _DATASETS:
        return DatasetSource(name, data_root, spec, classes)
    if name.isascii() and name.isdigit():
        return LiveSource(camera(Path(f"/dev/video{int(name)}")), spec, options.timeout_s)
    if name.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return LiveSource(network(name), spec, options.timeout_s)
    if path.is_dir():
        return FileSource(path, spec, classes)
    if path.is_char_device():
        return LiveSource(camera(path), spec, options.timeout_s)
    if not path.is_file():
        known = ", ".join(_DATASETS)
        raise SourceError(
            f"no source {name!r}: name a file, a folder, a camera's index, a stream's URL, or a data set ({known})"
        )
    if path.suffix.lower() in image_suffixes():
        return FileSource(path, spec, classes)
    return VideoSource(path, spec)

"""A folder that is watched for new images."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_sensor.sources.files import FileReader, images_below
from edge_sensor.sources.frames import Dropped, Found, Idle
from latentwire.bundle import InputSpec
from latentwire.errors import ImageError

_LOOK_S = 0.5  # between two looks, at least; looking takes a tenth of the time at most
_SETTLED_S = 1.0  # a file is taken when it has not changed for so long …
_BROKEN_S = 10.0  # … and one that cannot be read is waited for so long: its writer may only be slow
_FORGET_OVER = 10_000  # files that are gone are forgotten when there are more: a folder may be away for a while

Signature = tuple[int, int, int]  # what changes when a file is written: size, time in ns, inode


@dataclass(slots=True)
class _Seen:
    """A file as it was last seen; ``since_s`` it has not changed."""

    signature: Signature
    since_s: float
    done: bool = False
    unreadable: bool = False  # it was read as it is, in vain


class WatchedFolder:
    """Images of a folder, those that are there first, then those that come; without end, and none is left out.

    The folder is looked through every half second, which works on every file system. A file is read when it has not
    changed for a second, so one that is still being written is not read half; one that is written anew is read anew.
    """

    live = False

    def __init__(
        self,
        root: Path,
        spec: InputSpec,
        classes: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._reader = FileReader(root, spec, classes)
        self._clock = clock
        self._sleep = sleep
        self._seen: dict[Path, _Seen] = {}
        self.description = f"{root}, watched"

    def __iter__(self) -> Iterator[Found]:
        """Images for ever, ``Idle`` after each look; a file that cannot be read is dropped as ImageError."""
        while True:
            started_s = self._clock()
            ripe = self._look(started_s)
            took_s = self._clock() - started_s
            for path in ripe:
                found = self._read(path)
                if found is not None:
                    yield found
            yield Idle()
            self._sleep(max(_LOOK_S, 10 * took_s))

    def _look(self, now_s: float) -> list[Path]:
        """Take note of the folder as it is; the files that are to be read now, in order."""
        ripe: list[Path] = []
        there = images_below(self._root)
        for path in there:
            signature = _signature(path)
            seen = self._seen.get(path)
            if signature is None:
                continue
            if seen is None or seen.signature != signature:
                self._seen[path] = _Seen(signature, now_s)
            elif not seen.done and now_s - seen.since_s >= (_BROKEN_S if seen.unreadable else _SETTLED_S):
                ripe.append(path)
        if len(self._seen) > len(there) + _FORGET_OVER:
            present = set(there)
            self._seen = {path: seen for path, seen in self._seen.items() if path in present}
        return ripe

    def _read(self, path: Path) -> Found | None:
        """The file's image; None if it is to be read again."""
        seen = self._seen[path]
        try:
            frame = self._reader.read(path)
        except ImageError as error:
            if not seen.unreadable:
                seen.unreadable = True
                return None
            seen.done = True
            return Dropped(self._reader.item(path), error.error_name)
        if _signature(path) != seen.signature:
            return None  # written to while it was read
        seen.done = True
        return frame


def _signature(path: Path) -> Signature | None:
    """None if the file is gone again."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino

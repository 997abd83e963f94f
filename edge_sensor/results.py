"""Results as JSON lines: one an image, answered or not."""

import errno
import json
import logging
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentwire.errors import DiskFullError, LatentwireError

_RETRY_S = 1.0

log = logging.getLogger("latentwire.sensor")


class ResultsFile:
    """Writes lines as they come, to a file, to standard output (``-``) or nowhere (None). Thread-safe."""

    def __init__(self, target: str | Path | None, *, append: bool = False) -> None:
        """Open ``target``, emptied unless ``append``; LatentwireError if that cannot be done.

        What is appended to outlives its process: such a file also outlives a full disk.
        """
        self._target = target
        self._patient = append
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._fd: int | None = None
        if target is not None and target != "-":
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if append else os.O_TRUNC)
            try:
                self._fd = os.open(target, flags, 0o666)
            except OSError as error:
                reason = f"results cannot be written to {target} ({error.strerror}); name another"
                raise LatentwireError(reason) from None

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows, all of them or none, so that a reader of the file sees whole messages.

        DiskFullError if there is no room for them, LatentwireError if writing fails otherwise.
        """
        if self._target is None or not rows:
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        try:
            with self._lock:
                self._write(text)
        except OSError as error:
            kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else LatentwireError
            raise kind(f"results cannot be written to {self._target} ({error.strerror})") from None

    def write_in_time(self, rows: list[dict[str, Any]]) -> None:
        """Write rows; if appending, wait for room on the disk until there is some or ``give_up`` is called."""
        said = False
        while True:
            try:
                return self.write(rows)
            except DiskFullError as error:
                if not self._patient or self._given_up.is_set():
                    raise
                if not said:
                    log.error("%s; waiting until there is room", error)
                said = True
                self._given_up.wait(_RETRY_S)

    def write_if_room(self, rows: list[dict[str, Any]]) -> None:
        """Write rows; if appending, do without them when there is no room: whoever calls this must not wait."""
        try:
            self.write(rows)
        except DiskFullError as error:
            if not self._patient:
                raise
            log.debug("%s", error)

    def give_up(self) -> None:
        """Wait no longer."""
        self._given_up.set()

    def sync(self) -> None:
        """Have what is written on the disk, not only on its way; LatentwireError if that fails."""
        if self._fd is None:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a pipe has nothing to sync
                raise LatentwireError(f"results cannot be kept in {self._target} ({error.strerror})") from None

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._fd is not None:
            with suppress(OSError):  # what could not be written was reported by write
                os.close(self._fd)
            self._fd = None

    def _write(self, text: str) -> None:
        if self._fd is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        left = memoryview(text.encode())
        size = os.fstat(self._fd).st_size
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            with suppress(OSError):  # a pipe or a device
                os.ftruncate(self._fd, size)
            raise

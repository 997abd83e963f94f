"""Results as JSON lines: one an image, answered or not."""

import json
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from latentwire.errors import LatentwireError


class ResultsFile:
    """Writes lines as they come, to a file, to standard output (``-``) or nowhere (None). Thread-safe."""

    def __init__(self, target: str | Path | None) -> None:
        """Open ``target``, emptied; LatentwireError if that cannot be done."""
        self._target = target
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        try:
            if target == "-":
                self._file = sys.stdout
            elif target is not None:
                self._file = Path(target).open("w", encoding="utf-8")  # noqa: SIM115  (open for the whole run)
        except OSError as error:
            raise LatentwireError(f"results cannot be written to {target} ({error.strerror}); name another") from None

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows and flush them, so that a reader of the file sees whole messages.

        LatentwireError if it fails.
        """
        if self._file is None or not rows:
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        try:
            with self._lock:
                self._file.write(text)
                self._file.flush()
        except OSError as error:
            raise LatentwireError(f"results cannot be written to {self._target} ({error.strerror})") from None

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._file is not None and self._file is not sys.stdout:
            with suppress(OSError):  # what could not be written was reported by write
                self._file.close()

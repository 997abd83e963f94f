"""The files that results are written to. A group of rows is whole on disk when ``write`` returns, or not at all."""

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from latentwire.durable import sync_folder
from latentwire.errors import LatentwireError

ENDINGS = (".jsonl", ".sqlite", ".db")
WRITE_ERRORS = (OSError, sqlite3.Error)
_TAIL_BYTES = 64 * 1024


class Row(NamedTuple):
    """One answered image: ``time`` in seconds since 1970, ``payload_bits`` the mean of its message."""

    time: float
    sensor: str
    session: str
    sequence: int
    label: str
    label_index: int
    probability: float
    variant: str
    model: str
    rate_scale: float
    payload_bits: float


class ResultFile(Protocol):
    """One kind of file; not thread-safe."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows and sync them; raises one of WRITE_ERRORS, with none of them written."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def check_ending(path: Path) -> None:
    """Raise ValueError unless the ending names a kind of file."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"results must be a file that ends in {', '.join(ENDINGS)}, not {str(path)!r}")


def open_file(path: Path) -> ResultFile:
    """Open or make ``path``; what is in it stays. LatentwireError if that cannot be done."""
    try:
        return JsonLines(path) if path.suffix == ".jsonl" else Database(path)
    except BlockingIOError:
        raise LatentwireError(f"results are written to {path} by another server; name another") from None
    except WRITE_ERRORS as error:
        raise LatentwireError(f"results cannot be written to {path} ({error}); name another") from None


class JsonLines:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        """Open for appending; a last line that a crash tore, of an image never answered, is cut off."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = self._whole_bytes(os.fstat(self._fd).st_size)
            os.ftruncate(self._fd, self._size)
            sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, rows: Sequence[Row]) -> None:
        """As ``ResultFile.write``."""
        text = "".join(json.dumps(row._asdict(), allow_nan=False) + "\n" for row in rows).encode()
        left = memoryview(text)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(text)

    def close(self) -> None:
        """As ``ResultFile.close``."""
        os.close(self._fd)

    def _whole_bytes(self, size: int) -> int:
        """Where the last whole line ends."""
        end = size
        while end:
            start = max(0, end - _TAIL_BYTES)
            if (newline := os.pread(self._fd, end - start, start).rfind(b"\n")) >= 0:
                return start + newline + 1
            end = start
        return 0


class Database:
    """SQLite: a table ``results``. A row that is there already is not written again, also after a crash."""

    def __init__(self, path: Path) -> None:
        """Open, and make the table if it is not there."""
        # Opened in one thread, used in another, never in two at once.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")  # readers never hold the server up
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS results (time REAL, sensor TEXT, session TEXT, sequence INTEGER, "
                "label TEXT, label_index INTEGER, probability REAL, variant TEXT, model TEXT, rate_scale REAL, "
                "payload_bits REAL, PRIMARY KEY (sensor, session, sequence)) WITHOUT ROWID"
            )
            sync_folder(path.parent)
        except BaseException:
            self._connection.close()
            raise

    def write(self, rows: Sequence[Row]) -> None:
        """As ``ResultFile.write``."""
        with closing(self._connection.cursor()) as cursor:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                cursor.executemany(f"INSERT OR IGNORE INTO results VALUES ({', '.join('?' * len(Row._fields))})", rows)
                cursor.execute("COMMIT")
            except sqlite3.Error:
                with contextlib.suppress(sqlite3.Error):
                    cursor.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """As ``ResultFile.close``."""
        self._connection.close()

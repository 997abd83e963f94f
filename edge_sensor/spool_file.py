"""Opening a spool's file, and what is done when it is damaged: it is set aside, and what can be read is saved."""

import logging
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_sensor.clocks import Now
from edge_sensor.spool import Spool
from edge_sensor.spool_record import check
from edge_sensor.spool_state import SCHEMA, Full, SpoolState, translated
from latentwire.errors import SpoolDamagedError, SpoolError

FORMAT = 1
MIN_SPOOL_BYTES = 64 << 10
_APPLICATION_ID = 0x4C575350  # "LWSP"
_PAGE_BYTES = 1024  # a commit writes whole pages, and to a memory card they had better be small
_CHECKPOINT_PAGES = 512  # the log beside the file stays near half a megabyte
_MAX_LOST_IDS = 100_000  # how far a damaged file is searched for messages behind a hole

Sync = Literal["normal", "full"]


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Where a spool is and how it is kept: see ``SensorConfig``."""

    path: Path
    max_bytes: int
    full: Full
    sync: Sync


log = logging.getLogger("latentwire.sensor")


def new_state() -> SpoolState:
    """That of a spool that holds nothing."""
    return SpoolState(uuid.uuid4().hex)


def open_spool(settings: SpoolSettings, at: Now) -> tuple[Spool, bool]:
    """The spool, made if it is not there; and whether it was damaged, so that messages may be missing.

    Raises SpoolError if the file is no spool, is in use, is of a newer release or cannot be written.
    """
    path, sync = settings.path, settings.sync
    damaged = False
    try:
        connection, state = _checked(path, sync)
    except SpoolDamagedError as error:
        damaged = True
        aside = _set_aside(path, sync)
        connection, state = _checked(path, sync)
        (saved,) = connection.execute("SELECT count(*) FROM messages").fetchone()
        log.error("spool %s is damaged (%s): kept as %s; %d of its messages are saved", path, error, aside, saved)
    try:
        return Spool(connection, state, at, settings.max_bytes, settings.full), damaged
    except BaseException:
        connection.close()
        raise


def _checked(path: Path, sync: Sync) -> tuple[sqlite3.Connection, SpoolState]:
    """An open file that is whole, and its state; SpoolDamagedError or SpoolError."""
    connection = _connect(path, sync)
    try:
        with translated():
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                _create(connection, new_state())
            _check_kind(path, connection)
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise SpoolDamagedError(" ".join(found.split()))
            for (record,) in connection.execute("SELECT record FROM messages"):
                check(record)
            return connection, _state(connection)
    except BaseException:
        connection.close()
        raise


def _connect(path: Path, sync: Sync) -> sqlite3.Connection:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise SpoolError(f"{path} is no file; give another --spool")
    try:
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise SpoolError(f"spool {path} cannot be opened ({error}); give another --spool") from None
    try:
        with translated():
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # one sensor a spool, and no shared memory file
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA synchronous = {sync}")
            connection.execute("PRAGMA cache_size = -1024")  # KiB: a sensor is small
    except SpoolDamagedError:
        connection.close()
        raise
    except SpoolError as error:
        connection.close()
        if "locked" in str(error):
            raise SpoolError(f"spool {path} is in use by another sensor; give each its own --spool") from None
        raise SpoolError(f"spool {path}: {error}; give another --spool") from None
    return connection


def _create(connection: sqlite3.Connection, state: SpoolState) -> None:
    connection.executescript(
        f"BEGIN; {SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
    )
    connection.execute("INSERT INTO state VALUES (0, ?)", (msgspec.json.encode(state).decode(),))


def _check_kind(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION_ID:
        raise SpoolError(f"{path} is another program's database; give another --spool")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != FORMAT:
        raise SpoolError(f"spool {path} is of format {version}, this release reads {FORMAT}: use the one that wrote it")


def _state(connection: sqlite3.Connection) -> SpoolState:
    row = connection.execute("SELECT state FROM state").fetchone()
    try:
        return msgspec.json.decode(row[0] if row else "", type=SpoolState)
    except msgspec.MsgspecError as error:
        raise SpoolDamagedError(f"its state cannot be read: {error}") from None


def _set_aside(path: Path, sync: Sync) -> Path:
    """Put a file with what can be read of ``path`` in its place; returns where the damaged one is kept."""
    saved = path.with_name(path.name + ".saved")
    for leftover in _files(saved):  # of an attempt that was cut short
        leftover.unlink(missing_ok=True)
    with closing(_connect(saved, sync)) as target, translated():
        state = new_state()
        with suppress(SpoolError, sqlite3.Error), closing(_connect(path, sync)) as source:
            with suppress(SpoolError, sqlite3.Error):
                state = _state(source)
            _create(target, state)
            target.execute("BEGIN")
            for table, columns in (("points", 6), ("messages", 6)):
                marks = ", ".join("?" * columns)
                target.executemany(f"INSERT INTO {table} VALUES ({marks})", _readable(source, table))
            target.execute("DELETE FROM messages WHERE point NOT IN (SELECT id FROM points)")
            target.execute("COMMIT")
        if target.in_transaction:
            target.execute("COMMIT")
        if not target.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            _create(target, state)
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    for old, new in zip(_files(path), _files(aside), strict=True):
        if old.exists():
            old.rename(new)
    saved.rename(path)
    return aside


def _files(path: Path) -> tuple[Path, Path]:
    return path, path.with_name(path.name + "-wal")


def _readable(source: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a damaged table that can be read, by id; damaged pages are stepped over."""
    last = lost = 0
    while lost < _MAX_LOST_IDS:
        try:
            for row in source.execute(f"SELECT * FROM {table} WHERE id > ? ORDER BY id", (last + lost,)):
                last, lost = row[0], 0
                if table != "messages" or _is_whole(row[-1]):
                    yield row
            return
        except sqlite3.Error:
            lost += 1


def _is_whole(record: bytes) -> bool:
    try:
        check(record)
    except SpoolDamagedError:
        return False
    return True

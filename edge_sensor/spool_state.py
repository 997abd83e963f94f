"""What a spool keeps beside its messages, and the words that its parts share."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from edge_sensor.window import CodedMessage
from latentwire.errors import DiskFullError, SpoolDamagedError, SpoolError

SCHEMA = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, sequence INTEGER, images INTEGER NOT NULL, point INTEGER NOT NULL, boot INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE TABLE points (
    id INTEGER PRIMARY KEY, variant TEXT NOT NULL, model TEXT NOT NULL, rate_scale REAL NOT NULL,
    digest BLOB NOT NULL, sensor_digest TEXT NOT NULL
);
CREATE TABLE state (id INTEGER PRIMARY KEY, state TEXT NOT NULL);
"""

Full = Literal["oldest", "newest"]


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What is kept beside the messages.

    Attributes:
        session: the session's id.
        next_sequence: the first sequence not given yet; it never falls, whatever the session.
        classes: a digest of what the labels of the messages stand for.
        source: whose images they are; ``coded_images`` and ``place`` are of this source.
        boot_id: the machine's boot that wrote last, the ``boot``-th that the spool has seen.
        point: the highest id of an operating point.
        coded_images: images coded since the source was begun.
        place: items of the source that are done with.
        dropped: reason -> images dropped since the session began.
        done: the source came to its end and all is answered: the next start begins it anew.
    """

    session: str
    next_sequence: int = 0
    classes: str = ""
    source: str = ""
    boot_id: str = ""
    boot: int = 0
    point: int = 0
    coded_images: int = 0
    place: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    done: bool = False


@dataclass(frozen=True, slots=True)
class Turned:
    """What a transaction did.

    ``numbered`` messages may be sent now; ``dropped`` ones never will be, because the spool was full, and
    ``too_large`` ones because they do not fit the server's limits.
    """

    numbered: list[CodedMessage]
    dropped: list[CodedMessage]
    too_large: list[CodedMessage]


@contextmanager
def translated() -> Iterator[None]:
    """Raise what SQLite raises as our own errors."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError("there is no room on the spool's disk; free some") from None
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise SpoolDamagedError(f"{error}; restart the sensor to have the spool set aside") from None
        raise SpoolError(f"the spool cannot be used ({error})") from None

"""The disk queue of coded messages: a SQLite file. Blocking, and for one thread only.

::

    by id:  sent, not known to be answered | waiting
            sequence is a number           | sequence is NULL

A message gets its sequence in the transaction that lets it be sent, so all that a server may have seen of it is on
disk before. Only waiting messages are ever dropped: the server sees no hole.
"""

import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from edge_sensor.backlog import Waiting
from edge_sensor.clocks import Now, as_of_this_boot
from edge_sensor.spool_record import pack, unpack
from edge_sensor.spool_state import Full, SpoolState, Turned, translated
from edge_sensor.window import CodedMessage
from latentwire.errors import SpoolDamagedError
from latentwire.messages import Limits, OperatingPointName


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    sequence: int | None
    images: int
    point: int
    boot: int
    record: bytes


class Spool:
    """An open spool. A method that raises DiskFullError, SpoolDamagedError or SpoolError has done nothing."""

    def __init__(self, connection: sqlite3.Connection, state: SpoolState, at: Now, max_bytes: int, full: Full):
        """``max_bytes`` bounds the file; ``full`` says which waiting messages are dropped when it is reached."""
        self.state = state
        self.boot = state.boot + (state.boot_id != at.boot_id)
        self._connection = connection
        self._at = at
        self.max_bytes = max_bytes
        self.full = full
        self._page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        self._points: dict[int, OperatingPointName] = {}
        self._sent: deque[tuple[int, int]] = deque()  # id, and the sequence after the last image
        self._last_sent = self._last_id = 0
        self.waiting = Waiting()
        with self._transaction():
            self._read_all()

    def close(self) -> None:
        """Fold the log into the file, and close it."""
        self._connection.close()

    def sent(self) -> list[CodedMessage]:
        """The messages that may have been sent and are not known to be answered, in order."""
        with self._transaction():
            return [self._message(row) for row in self._rows("sequence IS NOT NULL ORDER BY id")]

    def begin(self, state: SpoolState, *, answered: Iterable[int] = (), renumber: bool = False) -> None:
        """Go on in this boot with ``state``, after removing the messages that begin at the sequences ``answered``.

        ``renumber`` has what may have been sent wait again, to be sent with other numbers in another session.
        """
        state = replace(state, boot=self.boot, boot_id=self._at.boot_id)
        with self._transaction():
            self._connection.executemany("DELETE FROM messages WHERE sequence = ?", ((first,) for first in answered))
            if renumber:
                self._connection.execute("UPDATE messages SET sequence = NULL WHERE sequence IS NOT NULL")
            self._write(state)
            self._read_all()
        self.state = state

    def save(self, state: SpoolState) -> None:
        """Put ``state`` in the old one's place."""
        with self._transaction():
            self._write(state)
        self.state = state

    def turn(
        self,
        new: Sequence[CodedMessage],
        answered: int,
        room: int,
        dropped: Mapping[str, int],
        limits: Limits | None = None,
    ) -> Turned:
        """All there is to do, in one transaction.

        Remove what lies before sequence ``answered``, keep the ``new`` messages, number waiting ones, oldest first, as
        far as there is ``room`` for their images and they keep to ``limits``, and drop waiting ones if the file is too
        large. ``dropped`` are totals to be kept.
        """
        with self._transaction():
            sent, oldest_point = self._remove(answered)
            fresh = dict(enumerate(new, self._last_id + 1))
            for row, message in fresh.items():
                self._insert(row, message)
            state = self._counted(new, dropped)
            numbered, too_large, state = self._number(fresh, state, room, limits or Limits(), alone=not sent)
            last_sent = max([self._last_sent, *numbered, *too_large])
            lost = self._drop_some(fresh, after=last_sent)
            self._write(state)
            gone = [message.batch.images for part in (numbered, too_large, lost) for message in part.values()]
            messages = self.waiting.messages + len(new) - len(gone)
            images = self.waiting.images + sum(message.batch.images for message in new) - sum(gone)
            waiting = Waiting(messages, images, self._used_bytes(), self._oldest_s(fresh, last_sent))
        self.state, self.waiting, self._last_sent = state, waiting, last_sent
        self._last_id += len(new)
        self._sent = sent
        self._sent.extend((row, message.end) for row, message in numbered.items())
        self._points.update({message.point.id: message.point for message in new})
        self._points = {number: point for number, point in self._points.items() if number >= oldest_point}
        return Turned(list(numbered.values()), list(lost.values()), list(too_large.values()))

    def _remove(self, answered: int) -> tuple[deque[tuple[int, int]], int]:
        """Delete what is answered; returns the sent messages that are left, and the oldest point still used."""
        left = deque(known for known in self._sent if known[1] > answered)
        if len(left) < len(self._sent):
            last = left[0][0] - 1 if left else self._last_sent
            self._connection.execute("DELETE FROM messages WHERE id <= ?", (last,))
        found = self._connection.execute("SELECT point FROM messages ORDER BY id LIMIT 1").fetchone()
        oldest = self.state.point if found is None else found[0]
        self._connection.execute("DELETE FROM points WHERE id < ?", (oldest,))
        return left, oldest

    def _insert(self, row: int, message: CodedMessage) -> None:
        point = message.point
        if point.id not in self._points:
            values = point.id, point.variant, point.model, point.rate_scale, point.digest, point.sensor_digest
            self._connection.execute("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?)", values)
        self._connection.execute(
            "INSERT INTO messages (id, images, point, boot, record) VALUES (?, ?, ?, ?, ?)",
            (row, message.batch.images, point.id, self.state.boot, pack(message)),
        )

    def _counted(self, new: Sequence[CodedMessage], dropped: Mapping[str, int]) -> SpoolState:
        return replace(
            self.state,
            dropped=dict(dropped),
            coded_images=self.state.coded_images + sum(message.batch.images for message in new),
            place=max([self.state.place, *(message.place for message in new)]),
            point=max([self.state.point, *(message.point.id for message in new)]),
        )

    def _number(
        self, fresh: Mapping[int, CodedMessage], state: SpoolState, room: int, limits: Limits, *, alone: bool
    ) -> tuple[dict[int, CodedMessage], dict[int, CodedMessage], SpoolState]:
        numbered: dict[int, CodedMessage] = {}
        too_large: dict[int, CodedMessage] = {}
        for row in self._rows("id > ? ORDER BY id", self._last_sent):
            if room <= 0:
                break
            message = fresh[row.id] if row.id in fresh else self._message(row)
            if not _fits(message, limits):
                too_large[row.id] = message
                continue
            room -= row.images
            if room < 0 and (numbered or not alone):  # alone, a message goes that is larger than our own window
                break
            numbered[row.id] = message = message.numbered(state.next_sequence)
            state = replace(state, next_sequence=message.end)
        self._connection.executemany(
            "UPDATE messages SET sequence = ? WHERE id = ?",
            [(message.batch.first_sequence, row) for row, message in numbered.items()],
        )
        self._connection.executemany("DELETE FROM messages WHERE id = ?", [(row,) for row in too_large])
        return numbered, too_large, state

    def _drop_some(self, fresh: Mapping[int, CodedMessage], after: int) -> dict[int, CodedMessage]:
        """Delete waiting messages, those after id ``after``, until the file is as small as it should be."""
        lost: dict[int, CodedMessage] = {}
        order = "id" if self.full == "oldest" else "id DESC"
        while self._used_bytes() > self.max_bytes:
            row = next(self._rows(f"id > ? ORDER BY {order} LIMIT 1", after), None)
            if row is None:
                break
            lost[row.id] = fresh[row.id] if row.id in fresh else self._message(row)
            self._connection.execute("DELETE FROM messages WHERE id = ?", (row.id,))
        return lost

    def _oldest_s(self, fresh: Mapping[int, CodedMessage], last_sent: int) -> float | None:
        """When the oldest image that waits was captured."""
        row = next(self._rows("id > ? ORDER BY id LIMIT 1", last_sent), None)
        if row is None:
            return None
        return (fresh[row.id] if row.id in fresh else self._message(row)).pictures[0].captured_s

    def _used_bytes(self) -> int:
        """What the file holds; it may be larger by pages that are free."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(self._page_bytes * (pages - free))

    def _read_all(self) -> None:
        """Find out what is in the file."""
        read = self._connection.execute
        points = read("SELECT id, variant, model, rate_scale, digest, sensor_digest FROM points").fetchall()
        # The command that led to a point is not kept: nobody waits for it any more.
        names = [OperatingPointName(*row[:-1], sensor_digest=row[-1]) for row in points]  # type: ignore[misc]
        self._points = {name.id: name for name in names}
        sent = read("SELECT id, sequence + images FROM messages WHERE sequence IS NOT NULL ORDER BY id").fetchall()
        self._sent = deque(sent)
        self._last_sent = sent[-1][0] if sent else 0
        self._last_id = read("SELECT max(id) FROM messages").fetchone()[0] or 0
        messages, images = read("SELECT count(*), total(images) FROM messages WHERE sequence IS NULL").fetchone()
        self.waiting = Waiting(messages, int(images), self._used_bytes(), self._oldest_s({}, self._last_sent))

    def _rows(self, where: str, *values: int) -> Iterator[_Row]:
        sql = f"SELECT id, sequence, images, point, boot, record FROM messages WHERE {where}"
        return (_Row(*row) for row in self._connection.execute(sql, values))

    def _message(self, row: _Row) -> CodedMessage:
        point = self._points.get(row.point)
        if point is None:
            raise SpoolDamagedError(f"a spooled message names operating point {row.point}, which is not there")
        message = unpack(row.record, row.sequence or 0, point)
        return message if row.boot == self.boot else as_of_this_boot(message, self._at)

    def _write(self, state: SpoolState) -> None:
        text = json.dumps(asdict(state))
        self._connection.execute("INSERT OR REPLACE INTO state VALUES (0, ?)", (text,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _fits(message: CodedMessage, limits: Limits) -> bool:
    batch = message.batch
    most = min(limits.max_images_per_message, limits.max_unanswered_images)
    return batch.images <= most and len(batch.payload) <= limits.max_payload_bytes

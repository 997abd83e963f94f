"""The end of a results file that another process wrote: which messages' results are in it."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Tail:
    """``messages``: first sequences of those whose results are all there; ``next_sequence`` is after the highest."""

    messages: frozenset[int] = frozenset()
    next_sequence: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    start: int  # of its line, in bytes
    sequence: int
    message: int  # its message's first sequence
    images: int  # of its message


def repair_tail(path: Path, since: int | None) -> Tail:
    """Read back to the images before sequence ``since``; with None, no farther than the last message.

    What a process left half-written when it was killed is cut off: a line without an end, a message that lacks
    some of its images. OSError if the file is there and cannot be read or cut.
    """
    if not path.is_file():
        return Tail()
    with path.open("r+b") as file:
        fd = file.fileno()
        _cut_line(fd)
        rows: list[_Row] = []  # the last first
        for row in _rows_backwards(fd):
            if rows and row.message != rows[0].message and (since is None or row.sequence < since):
                break
            rows.append(row)
        counts = Counter(row.message for row in rows)
        whole = frozenset(row.message for row in rows if counts[row.message] >= row.images)
        if rows and rows[0].message not in whole:
            rows = _cut_message(fd, rows)
    return Tail(whole, max((row.sequence for row in rows), default=-1) + 1)


def _cut_line(fd: int) -> None:
    size = os.fstat(fd).st_size
    for start, line in _lines_backwards(fd, size):
        if not line.endswith(b"\n"):
            os.ftruncate(fd, start)
        return


def _cut_message(fd: int, rows: list[_Row]) -> list[_Row]:
    """Cut the last message off, whose results are written at once, if nothing came after it."""
    ours = [row for row in rows if row.message == rows[0].message]
    lines = _lines_backwards(fd, os.fstat(fd).st_size)
    if [start for (start, _), _ in zip(lines, ours, strict=False)] == [row.start for row in ours]:
        os.ftruncate(fd, ours[-1].start)
        return rows[len(ours) :]
    return rows


def _rows_backwards(fd: int) -> Iterator[_Row]:
    """The rows of numbered images, the last first; lines that are none are passed over."""
    for start, line in _lines_backwards(fd, os.fstat(fd).st_size):
        try:
            row = json.loads(line)
            sequence = int(row["sequence"])
            yield _Row(start, sequence, int(row.get("message", sequence)), int(row.get("images_per_message", 1)))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def _lines_backwards(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Where each line starts, and the line with its end, the last first."""
    rest, end = b"", size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        block = os.pread(fd, end - start, start) + rest
        lines = _split(block)
        position = start + len(block)
        for line in reversed(lines[1:] if start else lines):
            position -= len(line)
            yield position, line
        rest, end = (lines[0] if start else b""), start


def _split(block: bytes) -> list[bytes]:
    parts = block.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])

"""What a sensor finds when it starts with a spool: the session it goes on with, and what it still has to send."""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_sensor.clocks import now
from edge_sensor.results import ResultsFile
from edge_sensor.results_tail import Tail, repair_tail
from edge_sensor.spool import Spool
from edge_sensor.spool_file import SpoolSettings, open_spool
from edge_sensor.spool_state import SpoolState
from edge_sensor.window import CodedMessage, Window
from latentwire.errors import LatentwireError, SpoolError

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class Resumed:
    """``sent``: messages that a server may have seen and whose results are not written; ``results`` is appended to."""

    spool: Spool
    sent: list[CodedMessage]
    results: ResultsFile

    def window(self) -> Window:
        """The messages in ``sent``, to be sent again, and the next number."""
        window = Window(self.sent[0].batch.first_sequence if self.sent else self.spool.state.next_sequence)
        for message in self.sent:
            window.add(message)
        return window

    def close(self) -> None:
        """Close both files."""
        self.results.close()
        self.spool.close()


def resume(settings: SpoolSettings, results: str | Path | None, source: str, classes: tuple[str, ...]) -> Resumed:
    """Open the spool and the results, and settle what a killed process left between the two.

    ``source`` is whose images are to be coded, ``classes`` what their labels stand for. Raises SpoolError, or
    LatentwireError if the results cannot be written.
    """
    spool, damaged = open_spool(settings, now())
    try:
        sent = spool.sent()
        known = _digest(classes)
        if spool.state.classes not in ("", known) and (sent or spool.waiting.images):
            raise SpoolError(
                f"spool {settings.path} holds images that were coded with a bundle of other classes: run that bundle "
                "until they are sent, or give another --spool"
            )
        tail = _tail(results, sent)
        answered = [message for message in sent if message.batch.first_sequence in tail.messages]
        left = [message for message in sent if message.batch.first_sequence not in tail.messages]
        state = _of_source(spool.state, source)
        # Sequences that the results know and the spool does not were lost with the machine's power.
        renumber = damaged or tail.next_sequence > state.next_sequence or not _in_order(left, state.next_sequence)
        if renumber or state.boot != spool.boot:
            state = replace(state, session=uuid.uuid4().hex, dropped={})
        state = replace(state, next_sequence=max(state.next_sequence, tail.next_sequence), done=False, classes=known)
        spool.begin(state, answered=[message.batch.first_sequence for message in answered], renumber=renumber)
        left = spool.sent()
        waiting = sum(message.batch.images for message in left) + spool.waiting.images
        log.info("spool %s: %d images to be sent, session %s", settings.path, waiting, state.session)
        return Resumed(spool, left, ResultsFile(results, append=True))
    except BaseException:
        spool.close()
        raise


def _digest(classes: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(classes).encode()).hexdigest()[:16]


def _tail(results: str | Path | None, sent: Sequence[CodedMessage]) -> Tail:
    if results is None or results == "-":
        return Tail()
    try:
        return repair_tail(Path(results), sent[0].batch.first_sequence if sent else None)
    except OSError as error:
        raise LatentwireError(f"results cannot be read from {results} ({error.strerror}); name another file") from None


def _of_source(state: SpoolState, source: str) -> SpoolState:
    """The state for this source: where another's images were coded before, or all of this one's, it begins anew."""
    if state.done:
        state = replace(state, session=uuid.uuid4().hex, coded_images=0, place=0, dropped={})
    if state.source != source:
        state = replace(state, source=source, coded_images=0, place=0)
    return state


def _in_order(messages: Sequence[CodedMessage], end: int) -> bool:
    """Whether they are numbered without a hole, up to ``end``."""
    starts = [message.batch.first_sequence for message in messages]
    return not messages or [*starts[1:], end] == [message.end for message in messages]

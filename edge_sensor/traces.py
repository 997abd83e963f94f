"""The sensor's spans of a message: made when its results come, of the times that were noted on the way."""

from collections.abc import Sequence

from edge_sensor.session import Session
from edge_sensor.window import CodedMessage, Unanswered
from latentwire.tracing import Tracing


class MessageSpans:
    """Follows the link. A message that is never answered has no trace."""

    def __init__(self, tracing: Tracing, session: Session) -> None:
        """``session`` is whose messages they are."""
        self._tracing = tracing
        self._session = session

    def connected(self, now_s: float) -> None:
        """Nothing to say."""

    def sent(self, message: CodedMessage, now_s: float) -> None:
        """Noted in the message."""

    def lost(self, now_s: float) -> None:
        """Nothing to say."""

    def answered(self, images: Sequence[Unanswered], now_s: float) -> None:
        """A message has its results, or was refused."""
        if not images:
            return
        message, session = images[0].message, self._session
        trace = self._tracing.of(session.name, session.id, message.batch.first_sequence)
        if trace is None:
            return
        captured_s = min(picture.captured_s for picture in message.pictures)
        sent_s = now_s if message.sent_s is None else message.sent_s
        span = self._tracing.first(
            trace,
            captured_s,
            sensor=session.name,
            session=session.id,
            first_sequence=message.batch.first_sequence,
            images=message.batch.images,
            payload_bytes=len(message.batch.payload),
            rate_scale=message.point.rate_scale,
        )
        span.child("latentwire.prepare", captured_s, sent_s)  # encoded, coded, and waited for the link
        span.child("latentwire.exchange", sent_s, now_s)
        span.end(now_s)

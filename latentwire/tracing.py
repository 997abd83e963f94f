"""Traces of messages, from an image's capture to its result, through OpenTelemetry.

No trace context crosses the link, where it would cost more than an image: a trace's id, and that of its first span, are
derived from what both sides know of a message, its sensor's name and session and its first image's sequence. Which
messages are traced follows from the trace's id too, so two sides that trace the same share trace the same messages.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from latentwire import __version__
from latentwire.errors import LatentwireError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

MESSAGE = "latentwire.message"  # the first span, the sensor's: from the first image's capture to the results
FLUSH_MS = 5000

Attribute = str | int | float | bool


@dataclass(frozen=True, slots=True)
class MessageTrace:
    """The trace of one message, 128 bits, and its first span, 64 bits."""

    trace_id: int
    span_id: int


def trace_of(sensor: str, session: str, first_sequence: int) -> MessageTrace:
    """The same on both sides."""
    said = "\0".join(("latentwire trace", session, sensor, str(first_sequence)))
    digest = hashlib.sha256(said.encode()).digest()
    return MessageTrace(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big"))


class Tracing:
    """Makes spans and hands them over, in a thread of its own; spans that come faster than they go are dropped.

    Times are monotonic seconds. Use it from one thread, but ``Traced.child`` from any.
    """

    def __init__(self, service: str, to: str, share: float) -> None:
        """Export to ``to``: ``http(s)://HOST:PORT`` takes OTLP over gRPC, anything else is a file of JSON lines.

        ``share`` of the messages are traced, 0..1. Raises LatentwireError if OpenTelemetry is not installed, or the
        file cannot be written.
        """
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter, self._file = _exporter(to)
        except ImportError:
            raise LatentwireError("traces need OpenTelemetry: pip install 'latentwire[tracing]'") from None
        from latentwire.tracing_ids import DerivedIds

        self._share = round(share * (1 << 64))
        self._ids = DerivedIds()
        resource = Resource.create({"service.name": service, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("latentwire", __version__)

    def of(self, sensor: str, session: str, first_sequence: int) -> MessageTrace | None:
        """The trace of a message, None if it is not among those traced."""
        trace = trace_of(sensor, session, first_sequence)
        return trace if trace.trace_id & ((1 << 64) - 1) < self._share else None

    def first(self, trace: MessageTrace, begin_s: float, **attributes: Attribute) -> "Traced":
        """Begin a trace's first span."""
        from opentelemetry.context import Context

        self._ids.next = trace
        return Traced(self._tracer, Context(), MESSAGE, begin_s, attributes)

    def below(self, trace: MessageTrace, name: str, begin_s: float, **attributes: Attribute) -> "Traced":
        """Begin a span below a trace's first, which another process makes."""
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        sampled = TraceFlags(TraceFlags.SAMPLED)
        parent = NonRecordingSpan(SpanContext(trace.trace_id, trace.span_id, is_remote=True, trace_flags=sampled))
        return Traced(self._tracer, set_span_in_context(parent), name, begin_s, attributes)

    def close(self) -> None:
        """Export what is left, for some seconds at most. Blocks."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()
        if self._file is not None:
            self._file.close()


class Traced:
    """A span that has begun."""

    __slots__ = ("_offset_ns", "_span", "_tracer")

    def __init__(
        self, tracer: "Tracer", above: "Context", name: str, begin_s: float, attributes: dict[str, Attribute]
    ) -> None:
        """Made by ``Tracing``."""
        self._tracer = tracer
        self._offset_ns = time.time_ns() - time.monotonic_ns()  # of the wall's clock; one for all of its moments
        self._span = tracer.start_span(name, above, start_time=self._unix_ns(begin_s), attributes=attributes)

    def child(self, name: str, begin_s: float, end_s: float, **attributes: Attribute) -> None:
        """A span within it, all at once."""
        from opentelemetry.trace import set_span_in_context

        above = set_span_in_context(self._span)
        span = self._tracer.start_span(name, above, start_time=self._unix_ns(begin_s), attributes=attributes)
        span.end(self._unix_ns(end_s))

    def end(self, end_s: float, error: str = "") -> None:
        """It is over; ``error`` names the refusal that it ended with."""
        if error:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, error)
        self._span.end(self._unix_ns(end_s))

    def _unix_ns(self, moment_s: float) -> int:
        return self._offset_ns + round(moment_s * 1e9)


def _exporter(to: str) -> "tuple[SpanExporter, TextIO | None]":
    """And the file that it writes to, if it does."""
    if to.startswith(("http://", "https://")):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=to), None
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    file = _opened(to)
    return ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n"), file


def _opened(path: str) -> TextIO:
    try:
        return Path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise LatentwireError(f"traces cannot be written to {path} ({error.strerror}); name another file") from None

"""Gives OpenTelemetry the ids that ``tracing.py`` derives, apart because it needs OpenTelemetry to be installed."""

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

if TYPE_CHECKING:
    from latentwire.tracing import MessageTrace


class DerivedIds(RandomIdGenerator):
    """Random ids, but for the first span of a trace, whose ids are ``next``."""

    def __init__(self) -> None:
        """No trace is next."""
        self.next: MessageTrace | None = None

    def generate_trace_id(self) -> int:
        """Called for a span without a parent alone, before its own id."""
        return super().generate_trace_id() if self.next is None else self.next.trace_id

    def generate_span_id(self) -> int:
        """Called for every span."""
        trace, self.next = self.next, None
        return super().generate_span_id() if trace is None else trace.span_id

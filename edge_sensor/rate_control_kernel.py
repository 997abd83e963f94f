"""The kernel's counts of the stream's connection, set against what was handed to gRPC meanwhile."""

import math
from dataclasses import dataclass, replace

from edge_sensor.channel import Servers
from edge_sensor.rate_control_socket import StreamSocket, Traffic

_SAMPLE_S = 1.0  # between two readings


@dataclass(frozen=True, slots=True)
class Crossed:
    """What messages cost between two readings: ``thought_bits`` by the model, ``link_bits`` by the kernel."""

    messages: int = 0
    images: int = 0
    payload_bits: float = 0.0
    thought_bits: float = 0.0
    link_bits: float = 0.0


class KernelCounts:
    """Reads them now and then. Tell it when a stream begins and ends, and of every message."""

    def __init__(self, servers: Servers) -> None:
        """``servers`` knows which one the stream goes to."""
        self._servers = servers
        self._socket: StreamSocket | None = None
        self._looking = False
        self._read_s = -math.inf
        self._before: Traffic | None = None
        self._since = Crossed()

    def connected(self) -> None:
        """A stream begins."""
        self.lost()
        self._looking = True

    def lost(self) -> None:
        """It is over."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._before = None
        self._looking = False
        self._read_s = -math.inf

    def sent(self, images: int, payload_bits: float, thought_bits: float) -> None:
        """A message was handed over."""
        since = self._since
        self._since = Crossed(
            since.messages + 1,
            since.images + images,
            since.payload_bits + payload_bits,
            since.thought_bits + thought_bits,
        )

    def read(self, now_s: float) -> tuple[Traffic | None, Crossed | None]:
        """The counts, if it is time, and what crossed since the reading before, if messages did."""
        if not self._looking or now_s - self._read_s < _SAMPLE_S:
            return None, None
        self._read_s = now_s
        if self._socket is None:
            self._socket = StreamSocket.find(self._servers.now)
        traffic = None if self._socket is None else self._socket.read()
        before = self._before
        if traffic is None or (before is not None and not self._since.messages):
            return traffic, None
        crossed, self._since, self._before = self._since, Crossed(), traffic
        if before is None:
            return traffic, None
        return traffic, replace(crossed, link_bits=float(traffic.sent_bits - before.sent_bits))

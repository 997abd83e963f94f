"""What the kernel says of the stream's TCP connection: the bytes that really left, headers in, and the round trip.

gRPC does not show its socket, but it is one of this process's own: the one that is connected to the server. Where that
is not exactly one, or the system is not Linux, there is nothing to read, and framing is modelled instead.
"""

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 52  # IPv4, TCP, and its timestamps
# From linux/tcp.h, tcp_info: snd_mss, rcv_mss; segs_out, min_rtt; bytes_sent (since Linux 4.19).
_SEGMENTS = struct.Struct("=16xII")
_SEGS_OUT = struct.Struct("=136xI8xI")
_BYTES_SENT = struct.Struct("=200xQ")
_SIZE = _BYTES_SENT.size
_NEVER_US = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a connection sent since it was made: ``sent_bits`` with TCP's and IP's headers.

    ``segment_bytes`` is the most that one segment carries, ``received_segment_bytes`` what those that come carry;
    ``round_trip_s`` is the shortest seen of late, 0 for none yet.
    """

    sent_bits: int
    segment_bytes: int
    received_segment_bytes: int
    round_trip_s: float


class StreamSocket:
    """The connection to a server; ``close`` it when the stream is over, which leaves gRPC's own open."""

    def __init__(self, own: socket.socket) -> None:
        """``own`` is a duplicate."""
        self._socket = own

    @classmethod
    def find(cls, server: str) -> "StreamSocket | None":
        """This process's one connection to ``HOST:PORT``; None if there is not exactly one, or it cannot be read."""
        port = int(server.rpartition(":")[2])
        found = [own for number in _sockets() for own in _connected_to(number, port)]
        first = found.pop() if len(found) == 1 else None
        for other in found:
            other.close()
        if first is None:
            return None
        made = cls(first)
        if made.read() is None:
            made.close()
            return None
        return made

    def read(self) -> Traffic | None:
        """What it sent so far; None where the system does not tell."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        except (OSError, AttributeError):
            return None
        if len(info) < _SIZE:
            return None
        segments, round_trip_us = _SEGS_OUT.unpack_from(info)
        (sent_bytes,) = _BYTES_SENT.unpack_from(info)
        segment_bytes, received_bytes = _SEGMENTS.unpack_from(info)
        round_trip_s = round_trip_us / 1e6 if 0 < round_trip_us < _NEVER_US else 0.0
        sent_bits = 8 * (sent_bytes + HEADER_BYTES * segments)
        return Traffic(sent_bits, segment_bytes, received_bytes, round_trip_s)

    def close(self) -> None:
        """Let go of the duplicate."""
        self._socket.close()


def _sockets() -> list[int]:
    """This process's descriptors that are sockets, before any is duplicated."""
    numbers = []
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if str(entry.readlink()).startswith("socket:"):
                    numbers.append(int(entry.name))
    return numbers


def _connected_to(number: int, port: int) -> list[socket.socket]:
    """A duplicate of the descriptor as a socket, if it is a TCP connection to that port."""
    try:
        own = socket.socket(fileno=os.dup(number))
    except OSError:  # closed meanwhile
        return []
    with suppress(OSError):
        internet = own.family in (socket.AF_INET, socket.AF_INET6) and own.type == socket.SOCK_STREAM
        if internet and own.getpeername()[1] == port:
            return [own]
    own.close()
    return []

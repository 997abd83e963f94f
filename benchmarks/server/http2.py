"""gRPC's client side as bytes, no more of it than a load generator needs; pure.

A generator in gRPC for Python costs as much as the server that it loads. This one costs microseconds a message, so that
on a machine of two cores the server's core is what is measured. HTTP/2 is RFC 9113, gRPC's framing its PROTOCOL-HTTP2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW = (1 << 31) - 1  # bytes that the server may send us: all it ever will
FIRST_WINDOW = (1 << 16) - 1  # bytes that we may send before it says more
HEADER_BYTES = 9


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def opening() -> bytes:
    """What a connection begins with: no dynamic table, and windows that never have to be widened."""
    settings = b"\x00\x01" + bytes(4) + b"\x00\x04" + WINDOW.to_bytes(4, "big")
    widen = (WINDOW - FIRST_WINDOW).to_bytes(4, "big")
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, widen)


def headers(path: str, authority: str) -> bytes:
    """The header block of a gRPC call over plain text, in literals that no table takes up (RFC 7541)."""
    block = b"\x83\x86" + _literal(b"\x04", path.encode()) + _literal(b"\x01", authority.encode())
    for name, value in ((b"te", b"trailers"), (b"content-type", b"application/grpc")):
        block += _literal(_literal(b"\x00", name), value)
    return block


def message(body: bytes) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    return b"\x00" + len(body).to_bytes(4, "big") + body


def varint(number: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was received."""

    kind: int
    flags: int
    stream: int
    body: bytes


class Frames:
    """Cuts what a socket gives into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[Frame]:
        """The frames that are complete now."""
        data = self._rest + received if self._rest else received
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES:
            end = start + HEADER_BYTES + int.from_bytes(data[start : start + 3], "big")
            if end > size:
                break
            stream = int.from_bytes(data[start + 5 : start + 9], "big")
            yield Frame(data[start + 3], data[start + 4], stream, data[start + HEADER_BYTES : end])
            start = end
        self._rest = data[start:]


class Messages:
    """Cuts a stream's DATA into gRPC messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, body: bytes) -> Iterator[bytes]:
        """The messages that are complete now."""
        data = self._rest + body if self._rest else body
        start, size = 0, len(data)
        while size - start >= 5:
            end = start + 5 + int.from_bytes(data[start + 1 : start + 5], "big")
            if end > size:
                break
            yield data[start + 5 : end]
            start = end
        self._rest = data[start:]


def _literal(prefix: bytes, text: bytes) -> bytes:
    assert len(text) < 0x7F, "longer lengths take more than a byte"
    return prefix + bytes((len(text),)) + text

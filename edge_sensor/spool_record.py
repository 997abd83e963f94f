"""A coded message as the bytes that a spool keeps.

::

    CRC-32 of the rest, 4 bytes | how the rest is packed, 1 byte | a MessagePack array, its columns below

Columns, not images: what the images of a message have in common packs well.
"""

import struct
import zlib
from itertools import accumulate, pairwise

import msgspec

from edge_sensor.window import CodedMessage, Picture
from latentwire.errors import SpoolDamagedError
from latentwire.messages import LatentBatch, OperatingPointName
from latentwire.wire import from_sensor_to_proto, grpc_bytes

_HEAD = struct.Struct("<IB")
_PLAIN, _DEFLATED = 0, 1
_MAX_BYTES = 16 << 20


class _Columns(msgspec.Struct, array_like=True):
    payload: bytes
    crc32: int
    items: list[str]
    truths: list[int | None] | None  # None: of no image
    first_captured_s: float
    captured_steps_ms: list[int]  # from image to image
    clock_offset_s: float  # wall clock less monotonic, when it was coded
    levels: bytes
    ideal_centibits: list[int]
    place: int


_decoder = msgspec.msgpack.Decoder(_Columns)


def pack(message: CodedMessage) -> bytes:
    """All of a message but its sequence and its operating point, which the spool keeps beside it."""
    pictures = message.pictures
    milliseconds = [round(1000 * (picture.captured_s - pictures[0].captured_s)) for picture in pictures]
    truths = [picture.truth for picture in pictures]
    columns = _Columns(
        payload=message.batch.payload,
        crc32=message.batch.crc32,
        items=[picture.item for picture in pictures],
        truths=truths if any(truth is not None for truth in truths) else None,
        first_captured_s=pictures[0].captured_s,
        captured_steps_ms=[later - earlier for earlier, later in pairwise(milliseconds)],
        clock_offset_s=message.clock_offset_s,
        levels=bytes(picture.level for picture in pictures),
        ideal_centibits=[round(100 * picture.ideal_bits) for picture in pictures],
        place=message.place,
    )
    plain = msgspec.msgpack.encode(columns)
    deflated = zlib.compress(plain, 6)
    kind, body = (_DEFLATED, deflated) if len(deflated) < len(plain) else (_PLAIN, plain)
    return _HEAD.pack(zlib.crc32(body, kind), kind) + body


def unpack(record: bytes, sequence: int, point: OperatingPointName) -> CodedMessage:
    """The message of ``pack``, numbered from ``sequence`` on; SpoolDamagedError if the bytes are not what was packed.

    Times are right to a millisecond, ideal bits to a hundredth.
    """
    columns = _columns(record)
    steps_s = (0.001 * step for step in columns.captured_steps_ms)
    captured_s = accumulate(steps_s, initial=columns.first_captured_s)
    truths = columns.truths or [None] * len(columns.items)
    ideal_bits = [0.01 * centibits for centibits in columns.ideal_centibits]
    pictures = tuple(map(Picture, columns.items, truths, captured_s, columns.levels, ideal_bits))
    batch = LatentBatch(sequence, len(pictures), point.id, columns.payload, columns.crc32)
    return CodedMessage(
        batch,
        point,
        pictures,
        8 * grpc_bytes(from_sensor_to_proto(batch)),
        clock_offset_s=columns.clock_offset_s,
        place=columns.place,
    )


def check(record: bytes) -> None:
    """Raise SpoolDamagedError if the bytes are not as they were written."""
    _body(record)


def _body(record: bytes) -> tuple[int, bytes]:
    if len(record) < _HEAD.size:
        raise SpoolDamagedError("a message is damaged: it is cut short")
    crc32, kind = _HEAD.unpack_from(record)
    body = record[_HEAD.size :]
    if zlib.crc32(body, kind) != crc32:
        raise SpoolDamagedError("a message is damaged: its checksum is another")
    return kind, body


def _columns(record: bytes) -> _Columns:
    kind, body = _body(record)
    try:
        if kind == _DEFLATED:
            body = zlib.decompressobj().decompress(body, _MAX_BYTES)
        return _decoder.decode(body)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise SpoolDamagedError(f"a message is damaged: {error}") from None

"""Coded messages made up for tests of the spool, and spools to put them in."""

import random
from pathlib import Path
from typing import Any

from edge_sensor.clocks import Now
from edge_sensor.spool import Spool
from edge_sensor.spool_file import SpoolSettings, open_spool
from edge_sensor.window import CodedMessage, Picture
from latentwire.messages import LatentBatch, OperatingPointName
from latentwire.wire import from_sensor_to_proto, grpc_bytes

NOW = Now("this boot", 1000.0, 1_700_000_000.0)
BUNDLE = "ab" * 32


def point(number: int) -> OperatingPointName:
    return OperatingPointName(number, "full", "anchored", 0.5 * number, bytes([number] * 8), sensor_digest=BUNDLE)


def message(number: int, images: int = 4, at: int = 1, captured_s: float = 990.0) -> CodedMessage:
    """The ``number``-th message, from 0 on: its payload and its images' names are its own."""
    chance = random.Random(number)
    pictures = tuple(
        Picture(f"clip.mp4#{number}.{i}", 1 if i % 3 else None, captured_s + 0.25 * i, i % 2, 3.5 + i)
        for i in range(images)
    )
    batch = LatentBatch(number * images, images, at, chance.randbytes(1 + chance.randrange(images)), number)
    bits = 8 * grpc_bytes(from_sensor_to_proto(batch))
    return CodedMessage(batch, point(at), pictures, bits, clock_offset_s=1e9, place=(number + 1) * images)


def opened(path: Path, now: Now = NOW, **settings: Any) -> Spool:
    """The spool at ``path``, whole, in the boot of ``now``."""
    spool, damaged = opened_damaged(path, now, **settings)
    assert not damaged
    return spool


def opened_damaged(path: Path, now: Now = NOW, **settings: Any) -> tuple[Spool, bool]:
    defaults: dict[str, Any] = {"max_bytes": 1 << 20, "full": "oldest", "sync": "normal"}
    spool, damaged = open_spool(SpoolSettings(path, **(defaults | settings)), now)
    spool.begin(spool.state)
    return spool, damaged


def items(messages: list[CodedMessage]) -> list[str]:
    return [picture.item for message in messages for picture in message.pictures]

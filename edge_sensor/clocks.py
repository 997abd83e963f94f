"""Two clocks: the monotonic one, which no adjustment moves but a reboot begins anew, and the wall's."""

import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from edge_sensor.window import CodedMessage

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Now:
    """This moment by both clocks, in seconds, and the machine's boot that the monotonic one counts from."""

    boot_id: str
    monotonic_s: float
    wall_s: float


def now() -> Now:
    """Read the clocks."""
    return Now(_boot_id(), time.monotonic(), time.time())


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return uuid.uuid4().hex  # a boot of its own: only the wall clock tells then how old a message is


def as_of_this_boot(message: CodedMessage, at: Now) -> CodedMessage:
    """A message that was captured in an earlier boot, its times on this boot's monotonic clock.

    How old it is only the wall clock can tell, and that may have jumped; but it is older than this boot.
    """
    offset_s = at.wall_s - at.monotonic_s
    newest_s = message.pictures[-1].captured_s
    shift_s = min(message.clock_offset_s - offset_s, -newest_s)
    pictures = tuple(replace(picture, captured_s=picture.captured_s + shift_s) for picture in message.pictures)
    return replace(message, pictures=pictures, clock_offset_s=message.clock_offset_s - shift_s)

"""Quantities as people write them on a command line: ``2s``, ``500ms``, ``2kbit/s``."""

import re

_SECONDS = {"ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "h": 3600.0}
_BITS = {"": 1.0, "bit/s": 1.0, "bps": 1.0, "kbit/s": 1e3, "kbps": 1e3, "mbit/s": 1e6, "mbps": 1e6}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z/]*)")


def seconds(text: str) -> float:
    """``2s``, ``500ms``, ``1.5min``, ``2`` in seconds; ValueError for anything else, and for nothing."""
    return _quantity(text, _SECONDS, "2s or 500ms")


def bits_per_s(text: str) -> float:
    """``2kbit/s``, ``64kbps``, ``2000`` in bits a second; ValueError for anything else, and for nothing."""
    return _quantity(text, _BITS, "2kbit/s or 2000")


def _quantity(text: str, units: dict[str, float], example: str) -> float:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units or not float(match[1]):
        raise ValueError(f"{text!r} is not understood; write for example {example}")
    return float(match[1]) * units[match[2]]

"""What the golden files hold, and how a case is made: deterministic on any machine, for nothing is drawn by numpy."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from latentwire.codec import latent_codec
from latentwire.codec.choice import Choice
from latentwire.codec.coder import Encoder, Table
from latentwire.codec.parameters import CodecParameters, Frontier
from latentwire.operating_point import OperatingPoint

HERE = Path(__file__).parent
SHIPPED = HERE / "shipped.json"
LISTED_SYMBOLS = 80  # a case with no more is listed whole; of a longer one there is the SHA-256
_SINGLES = ("anchors",)
_INTEGERS = ("anchor_counts", "shapes", "shape_of")
_SCALARS = ("ratios_per_octave", "named_by_head")

Json = dict[str, Any]


def versioned(payload_format: int) -> Path:
    """The vectors of a payload format."""
    return HERE / f"v{payload_format}.json"


def uniform(seed: str, *shape: int) -> np.ndarray:
    """Numbers of 0 up to 1, multiples of 2**-16, by SHAKE-256 of ``seed``."""
    raw = hashlib.shake_256(seed.encode()).digest(2 * int(np.prod(shape)))
    return np.frombuffer(raw, "<u2").reshape(shape) / 2.0**16


def normal(seed: str, *shape: int) -> np.ndarray:
    """Nearly standard normal numbers: twelve uniform ones summed; all exact."""
    return uniform(seed, 12, *shape).sum(axis=0) - 6.0


def short(values: np.ndarray) -> np.ndarray:
    """Rounded to 2**-10, so that they are short to write down and exact in float32."""
    return np.rint(values * 1024) / 1024


@dataclass
class Spy:
    """All symbols that were coded."""

    symbols: list[np.ndarray]

    def seen(self) -> np.ndarray:
        """Every symbol in its order, (n,) int32."""
        return np.concatenate([np.zeros(0, "<i4"), *self.symbols]).astype("<i4")


@contextmanager
def spying() -> Iterator[Spy]:
    """Note what the codec hands to its coder."""
    spy = Spy([])

    class Noting(Encoder):
        def push(self, symbols: np.ndarray, table: Table) -> None:
            spy.symbols.append(symbols)
            super().push(symbols, table)

    latent_codec.Encoder = Noting  # type: ignore[misc]
    try:
        yield spy
    finally:
        latent_codec.Encoder = Encoder  # type: ignore[misc]


def coded_case(point: OperatingPoint, latent: np.ndarray, start: int, choice: Choice, listed: bool) -> Json:
    """The case of one message: ``latent`` (N, d) are those of the model from ``start`` on."""
    with spying() as spy:
        coded = point.codec.encode(latent, choice)
    symbols = spy.seen()
    case = {
        "rate_scale": point.rate_scale,
        "start": start,
        "images": len(latent),
        "anchor": choice.anchor.tolist(),
        "level": choice.level.tolist(),
        "run": choice.run,
        "indices_sha256": sha256(coded.indices),
        "saturated": coded.saturated,
        "symbols_sha256": sha256(symbols),
        "tables": point.digest.hex(),
        "crc32": coded.crc32,
        "payload": coded.payload.hex(),
    }
    if listed:
        case["indices"] = coded.indices.tolist()
    if len(symbols) <= LISTED_SYMBOLS:
        case["symbols"] = symbols.tolist()
    return case


def choice_of(case: Json) -> Choice:
    """The choice that a case was coded with."""
    return Choice(np.array(case["anchor"], np.int32), np.array(case["level"], np.int32), case["run"])


def sha256(values: np.ndarray) -> str:
    """Of little-endian int32."""
    return hashlib.sha256(values.astype("<i4").tobytes()).hexdigest()


def parameters_to_json(parameters: CodecParameters) -> Json:
    """Every field under its name, the frontier's as an object."""
    plain = {f.name: getattr(parameters, f.name) for f in fields(CodecParameters) if f.name != "payload_format"}
    path = plain.pop("frontier")
    listed = {name: value if name in _SCALARS else value.tolist() for name, value in plain.items()}
    return listed | {"frontier": {f.name: getattr(path, f.name).tolist() for f in fields(Frontier)}}


def parameters_from_json(content: Json, payload_format: int) -> CodecParameters:
    """Read what ``parameters_to_json`` wrote; the format stands at the file's head."""
    values = dict(content)
    path = Frontier(**{name: np.array(value, np.float64) for name, value in values.pop("frontier").items()})
    for name, value in values.items():
        if name not in _SCALARS:
            dtype = np.float32 if name in _SINGLES else np.int64 if name in _INTEGERS else np.float64
            values[name] = np.array(value, dtype)
    parameters = CodecParameters(**values, frontier=path, payload_format=payload_format)
    parameters.check()
    return parameters


def to_text(value: Any, depth: int = 0) -> str:
    """JSON with an object's members, and a list's objects and rows, on a line each."""
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        inner = [f"{pad}{json.dumps(key)}: {to_text(each, depth + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        inner = [pad + json.dumps(each, separators=(",", ":")) for each in value]
        return "[\n" + ",\n".join(inner) + "\n" + " " * depth + "]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)

"""Measured operating points of trained pairs, a file a data set: what ``latentwire report`` draws from."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from latentwire.errors import DataError

_FORMERLY = {"patch": 1, "bottleneck": "dense"}  # what older files do not say


@dataclass(frozen=True, slots=True)
class Record:
    """One operating point of one trained pair on a whole test set.

    ``patch`` and ``bottleneck`` are the pair's (1 and dense in files from before there were others); ``method`` is ce,
    duphil, ldr, ...; ``model`` the entropy model; ``distortion`` empty for the images as they are, else its kind and
    strength; bits are means an image, ``accuracy`` and ``share_refined`` 0..1.
    """

    dataset: str
    backbone: str
    width: int
    patch: int
    bottleneck: str
    cut: int
    d: int
    method: str
    variant: str
    seed: int
    epochs: int
    sensor_macs: int
    sensor_parameters: int
    model: str
    rate_scale: float
    distortion: str
    images: int
    share_refined: float
    total_entropy_bits: float
    ideal_bits: float
    payload_bits: float
    accuracy: float
    commit: str
    machine: str

    def key(self) -> tuple[object, ...]:
        """What a later measurement of the same thing replaces it by."""
        return (
            self.dataset, self.backbone, self.width, self.patch, self.bottleneck, self.cut, self.d, self.method,
            self.variant, self.seed, self.epochs, self.model, self.rate_scale, self.distortion,
        )  # fmt: skip


def load_records(path: Path) -> list[Record]:
    """The records of a file, none if there is no file; DataError if it holds something else."""
    try:
        rows = json.loads(path.read_text())["rows"]
        return [Record(**{field.name: (_FORMERLY | row)[field.name] for field in fields(Record)}) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no records ({error!r}); give another file") from error


def add_records(path: Path, records: Sequence[Record]) -> None:
    """Add records to a file, in place of older ones of the same thing; whole or not at all."""
    merged = {record.key(): record for record in [*load_records(path), *records]}
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".part")
    try:
        staging.write_text(json.dumps({"rows": [asdict(r) for r in merged.values()]}, indent=1) + "\n")
        os.replace(staging, path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written ({error.strerror}); what was there is untouched") from error

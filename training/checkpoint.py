"""Checkpoints: saved whole or not at all, loaded without unpickling code, refused when they are of another run."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latentwire.durable import sync_folder
from latentwire.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All of a run that resuming it bit for bit takes.

    ``method`` names the training step ("ce"). ``config`` is its configuration as plain values, by which a checkpoint
    is known to be of this run. ``pair`` is PairConfig's values. ``classes`` names the classes. ``epoch`` epochs are
    done, and ``step`` steps of the next. ``state`` holds the modules', optimizer's, scheduler's and random
    generators' states and the running sums of the unfinished epoch. ``history`` is the log, a row an epoch.
    """

    method: str
    config: dict[str, Any]
    pair: dict[str, Any]
    classes: tuple[str, ...]
    epoch: int
    step: int
    state: dict[str, Any]
    history: list[dict[str, float]]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write beside ``path``, flush to the disk, and rename over it: what was there stays whole if this fails.

    CheckpointError if it cannot be written (a full disk, no permission).
    """
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            torch.save({"format": FORMAT, **content, "classes": list(checkpoint.classes)}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives it to its owner alone
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a failed write as RuntimeError
        raise CheckpointError(
            f"the checkpoint {path} cannot be saved ({error}); the one before it is whole: "
            f"free some space and run again with --resume"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; CheckpointError if it is missing, damaged or no checkpoint of ours."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}: train one first, or give another path") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it") from None
    except Exception as error:  # torch's reader raises many kinds on damaged files, without a common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no checkpoint ({reason}): it is damaged or of another program") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no Latentwire checkpoint of format {FORMAT}: train it again")
    try:
        values = {name: content[name] for name in Checkpoint.__slots__}
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}: it is damaged; train it again") from None
    return Checkpoint(**{**values, "classes": tuple(values["classes"])})


def check_same_run(path: Path, checkpoint: Checkpoint, method: str, config: Mapping[str, Any]) -> None:
    """Refuse, by the settings' names, a checkpoint whose method or configuration differs (CheckpointError)."""
    if checkpoint.method != method:
        raise CheckpointError(f"{path} is a checkpoint of '{checkpoint.method}' training, not of '{method}'")
    differences = list(_differences(checkpoint.config, config))
    if differences:
        raise CheckpointError(
            f"{path} is of another configuration: {'; '.join(differences)}; "
            f"give the same settings to resume it, or another --out for a new run"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} is {old!r} there and {new!r} here")
    return found

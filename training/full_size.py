"""``latentwire train all``: a whole data set at full size, in commands of some minutes that go on where the last ended.

What there is to do is in ``training.stages``; here it is done, as far as the minutes go.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from latentwire.errors import CheckpointError, StoppedError
from training.budget import Budget
from training.stages import BUNDLES, FullSizeConfig, Stage, plan
from training.thin import pack

STATUS, SETTINGS = "status.json", "settings.json"
EVALUATION_MINUTES = 4.0  # exporting and measuring cannot be interrupted: begun with less left only as a call's first


@dataclass(frozen=True, slots=True)
class Status:
    """The names of the stages that are done and of those that are left, and the files that did not fit the outbox."""

    done: tuple[str, ...]
    left: tuple[str, ...]
    not_packed: tuple[str, ...] = ()


def run_full_size(config: FullSizeConfig, say: Callable[[str], None] = lambda _: None) -> Status:
    """Do what is left, for at most ``minutes``; ``out``/status.json says how far it is, also while it runs.

    Raises CheckpointError if ``out`` holds a run of other settings, StoppedError on Ctrl-C or SIGTERM (after saving),
    and what the steps, export and measuring raise.
    """
    torch.backends.cudnn.benchmark = True  # batches are all of one size
    _keep_settings(config)
    stages = list(plan(config, say))
    with Budget(config.minutes) as budget:
        first = True
        for stage in stages:
            if stage.done():
                continue
            if budget.over or not (first or stage.interruptible or budget.left_minutes >= EVALUATION_MINUTES):
                break
            _status(config, stages, stage.name)
            say(stage.name)
            try:
                stage.run()
            except StoppedError:
                if budget.over:
                    break
                raise
            first = False
    status = _status(config, stages, None)
    if config.outbox is None:
        return status
    return replace(status, not_packed=tuple(pack(config.out, config.outbox, (BUNDLES, "onnx"))))


def _keep_settings(config: FullSizeConfig) -> None:
    """Write down what run this is; CheckpointError if ``out`` holds another."""
    path, ours = config.out / SETTINGS, config.identity()
    if not path.exists():
        _write(path, ours)
        return
    theirs = json.loads(path.read_text())
    different = ", ".join(name for name in ours if ours[name] != theirs.get(name))
    if different:
        raise CheckpointError(f"{config.out} holds a run of other settings ({different}): give another --out")


def _status(config: FullSizeConfig, stages: list[Stage], running: str | None) -> Status:
    done = tuple(stage.name for stage in stages if stage.done())
    left = tuple(stage.name for stage in stages if stage.name not in done)
    _write(config.out / STATUS, {"running": running, "left": left, "done": done})
    return Status(done, left)


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(".part")
        staging.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(staging, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror}): give another --out") from error

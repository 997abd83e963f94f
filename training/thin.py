"""Checkpoints for carrying: weights in 16 bits, and files small enough to leave a lent machine."""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentwire.errors import CheckpointError
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

HALF_FROM = 256  # numbers in a tensor from which it is kept in 16 bits
PART_BYTES = 15 << 20
PARTS = 4
SEEN = ".packed.json"


def thin(checkpoint: Checkpoint) -> Checkpoint:
    """What later steps and export need of a finished run: its weights, large ones in float16, and its story."""
    state: dict[str, Any] = {
        part: halved(checkpoint.state[part]) for part in ("pair", "side") if part in checkpoint.state
    }
    return replace(checkpoint, state=state)


def without_averages(checkpoint: Checkpoint) -> Checkpoint:
    """A run under way at a third of its size or less: weights as in ``thin``, and none of the optimizers' running
    averages, which fill again within some tens of steps. It goes on, though not bit for bit."""
    state = {**checkpoint.state, **thin(checkpoint).state}
    for name, value in state.items():
        if isinstance(value, dict) and "param_groups" in value:
            state[name] = {**value, "state": {}}
    return replace(checkpoint, state=state)


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of 256 numbers and more in float16, but for those it cannot hold."""
    most = torch.finfo(torch.float16).max
    return {
        name: value.half()
        if value.is_floating_point() and value.numel() >= HALF_FROM and value.abs().max() <= most
        else value
        for name, value in state.items()
    }


def pack(
    folder: Path, out: Path, leave: tuple[str, ...] = (), part_bytes: int = PART_BYTES, parts: int = PARTS
) -> list[str]:
    """Write what changed in ``folder`` since the last packing as a tar in files ``out``/run.tar.00, .01, ...; unpacked
    over a copy of ``folder``, it brings that up to date, but for files whose paths have a part in ``leave``.

    Returns the files that did not fit: they go next time.

    Small files come first, then the newest. Checkpoints of runs under way are packed ``without_averages``.
    CheckpointError if a file cannot be written.
    """
    seen: dict[str, int] = _read_seen(folder)
    changed = [
        path for path in _files(folder, leave) if seen.get(str(path.relative_to(folder))) != path.stat().st_mtime_ns
    ]
    changed.sort(key=lambda path: (path.stat().st_size >= 1 << 20, -path.stat().st_mtime_ns))
    room, left = part_bytes * parts - 2 * tarfile.RECORDSIZE, []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as whole:
            with tarfile.open(fileobj=whole, mode="w") as archive:
                for path in changed:
                    content, name, stamp = _content(path), str(path.relative_to(folder)), path.stat().st_mtime_ns
                    room_after = room - len(content) - 2 * tarfile.BLOCKSIZE
                    if room_after < 0:
                        left.append(name)
                        continue
                    entry, room = tarfile.TarInfo(name), room_after
                    entry.size, entry.mode = len(content), 0o644
                    archive.addfile(entry, io.BytesIO(content))
                    seen[name] = stamp
            whole.seek(0)
            for number, content in enumerate(iter(lambda: whole.read(part_bytes), b"")):
                (out / f"run.tar.{number:02}").write_bytes(content)
        (folder / SEEN).write_text(json.dumps(seen))
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written ({error.strerror}): free some space") from error
    return left


def _read_seen(folder: Path) -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads((folder / SEEN).read_text())
    except (OSError, ValueError):
        return {}
    return found


def _files(folder: Path, leave: tuple[str, ...]) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not path.name.startswith(".") and not {*parts} & {*leave}:
            yield path


def _content(path: Path) -> bytes:
    if path.suffix != ".pt":
        return path.read_bytes()
    checkpoint = load_checkpoint(path)
    if not any(name.endswith("optimizer") for name in checkpoint.state):
        return path.read_bytes()
    with tempfile.TemporaryDirectory(prefix="latentwire-pack-") as folder:
        save_checkpoint(Path(folder) / path.name, without_averages(checkpoint))
        return (Path(folder) / path.name).read_bytes()

"""What measuring commands write with ``--json FILE``: one object, ``meta`` and flat ``rows``."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from latentwire.errors import LatentwireError

Value = str | int | float | bool | None
_VERSIONS = ("latentwire", "numpy", "constriction", "onnxruntime", "grpcio", "protobuf", "torch")


def meta(command: str) -> dict[str, Value | dict[str, str]]:
    """Which command made a figure, from which commit, with which versions, on which machine, when."""
    return {
        "command": command,
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | _installed(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path | None, rows: Iterable[Mapping[str, Value]]) -> None:
    """Write ``rows`` with their ``meta`` to ``path``; nothing when ``path`` is None."""
    if path is None:
        return
    text = json.dumps({"meta": meta(_command()), "rows": [dict(row) for row in rows]}, indent=1)
    try:
        path.write_text(text + "\n")
    except OSError as error:
        raise LatentwireError(f"{path} cannot be written: {error.strerror}; give another --json file") from error


def _command() -> str:
    program = Path(sys.argv[0])
    ours = program.suffix != ".py" or program.stem == "__main__"
    name = "latentwire" if ours else f"python -m {program.parent.name}.{program.stem}"
    return " ".join([name, *sys.argv[1:]])


def _commit() -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _installed() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

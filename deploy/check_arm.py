"""The sensor's image on 64-bit ARM, beside the one on this machine: the same tables, bytes and results?

    python deploy/check_arm.py --json docs/results/arm.json

Builds both sensor images and the server's from HEAD, the ARM one on the base image that `docker-engine arm64` makes and
run by QEMU; where images come from a registry, add --base python:3.11-slim-bookworm --platform linux/arm64. Each sensor
makes the golden vectors anew and streams 200 digits to the x86-64 server at the coarsest, the default and the finest
rate scale. Exit status 1 unless the tables and golden bytes are those of the repository and both have the same results;
symbols that float rounding moved are counted. QEMU 7.2 cannot run onnxruntime's newest release (an illegal instruction
on import): --onnxruntime is put in its place, in the ARM image alone.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from latentwire.report import write_json

ROOT = Path(__file__).parents[1]
SCALES = ("0.01", "0.1", "4.0")
NETWORK = SERVER = "latentwire-check-arm"
Json = dict[str, Any]


def run(*command: str) -> str:
    """What a command prints to standard output; the rest of it is shown. CalledProcessError if it fails."""
    print("+", *command, file=sys.stderr)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def unpack(folder: Path, onnxruntime: str | None) -> str:
    """HEAD's files in ``folder``, another onnxruntime in constraints.txt if one is given."""
    run("git", "clone", "-q", str(ROOT), str(folder))  # with the modes of a checkout, so that layers are found again
    if onnxruntime is not None:
        pins = folder / "constraints.txt"
        pins.write_text(re.sub(r"(?m)^onnxruntime==.*$", f"onnxruntime=={onnxruntime}", pins.read_text()))
    return str(folder)


def build(folder: str, part: str, *options: str) -> str:
    """An image of ``part``, sensor or server; its id."""
    return run("docker", "build", "-q", "-f", f"{folder}/deploy/Dockerfile.{part}", *options, folder).split()[-1]


def probe(image: str, folder: str, name: str, *options: str) -> Json:
    """What arm_probe.py says in a container of ``image``."""
    mounts = ("-v", f"{folder}/tests/golden:/tests/golden:ro", "-v", f"{folder}/deploy/arm_probe.py:/probe.py:ro")
    command = ("docker", "run", "--rm", "--init", "--network", NETWORK, *mounts, "-e", "PYTHONPATH=/tests", *options)
    said = run(*command, "--entrypoint", "python", image, "/probe.py", f"{SERVER}:50051", name, *SCALES)
    found: Json = json.loads(said.splitlines()[-1])
    return found


def compared(scale: str, here: Json, arm: Json) -> Json:
    """One rate scale's row: what the two sensors coded and got back."""

    def both(key: str) -> list[tuple[Any, Any]]:
        lists = ([message[key] for message in stream["messages"]] for stream in (here, arm))
        return list(zip(*map(chain.from_iterable, lists), strict=True))

    def moved(pairs: Iterable[tuple[Any, Any]]) -> int:
        return sum(one != other for one, other in pairs)

    # Where other images are refined, an index has no partner to be compared with.
    same = not moved(both("level"))
    indices = [each for pair in both("indices") for each in zip(*pair, strict=True)] if same else []
    payloads = [[message["payload"] for message in stream["messages"]] for stream in (here, arm)]
    chances = zip(here["probabilities"], arm["probabilities"], strict=True)
    return {
        "bundle": "digits",
        "rate_scale": float(scale),
        "images": len(here["labels"]),
        "answered": arm["answered"],
        "accuracy": arm["accuracy"],
        "payloads": len(here["messages"]),
        "payloads_that_differ": moved(zip(*payloads, strict=True)),
        "anchors_moved": moved(both("anchor")),
        "levels_moved": moved(both("level")),
        "indices": sum(len(row) for message in here["messages"] for row in message["indices"]),
        "indices_moved": moved(indices) if same else None,
        "labels_that_differ": moved(zip(here["labels"], arm["labels"], strict=True)),
        "largest_difference_of_probability": max(abs(a - b) for a, b in chances),
    }


def check(folder: Path, arguments: argparse.Namespace) -> tuple[Json, Json]:
    """Build, stream, and say what each sensor found: this machine's, and the ARM one."""
    here, there = unpack(folder / "here", None), unpack(folder / "there", arguments.onnxruntime)
    server, sensor = build(here, "server"), build(here, "sensor")
    on_arm = ("--platform", arguments.platform) if arguments.platform else ()
    arm = build(there, "sensor", *on_arm, "--build-arg", f"BASE={arguments.base}")
    run("docker", "network", "create", NETWORK)
    try:
        insecure = ("-e", "LATENTWIRE_SERVER_INSECURE=true")  # a network of these containers alone
        run("docker", "run", "-d", "--rm", "--init", "--name", SERVER, "--network", NETWORK, *insecure, server)
        try:
            return probe(sensor, here, "here"), probe(arm, there, "arm", *on_arm)
        finally:
            run("docker", "stop", SERVER)
    finally:
        run("docker", "network", "rm", NETWORK)


def main() -> None:
    """Check, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="python:3.11-slim-bookworm-arm64", help="the ARM image's base")
    parser.add_argument("--platform", help="as the engine is to be told, where its base image is of several")
    parser.add_argument("--onnxruntime", default="1.27.0", help="its version of onnxruntime; empty: as pinned")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    arguments.onnxruntime = arguments.onnxruntime or None
    with tempfile.TemporaryDirectory() as folder:
        here, arm = check(Path(folder), arguments)
    rows = [
        {
            "machine": found["machine"],
            "coder": found["coder"],
            **{package: found["versions"][package] for package in ("numpy", "onnxruntime")},
            "tables": found["golden"]["tables"],
            "golden_payloads": found["golden"]["payloads"],
            "golden_files": len(found["golden"]["files"]),
            "golden_files_that_differ": len(found["golden"]["files_that_differ"]),
        }
        for found in (here, arm)
    ]
    streams = [compared(scale, here["streams"][scale], arm["streams"][scale]) for scale in SCALES]
    write_json(arguments.json, [*rows, *streams])
    print(json.dumps([*rows, *streams], indent=1))
    good = arm["machine"] == "aarch64" and arm["coder"] == "portable"
    good &= not any(row["golden_files_that_differ"] for row in rows)
    good &= all(row["labels_that_differ"] == 0 and row["answered"] == row["images"] for row in streams)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""What check_arm.py runs in a sensor's container of either kind; prints one JSON object.

The golden vectors made anew (tests/golden is mounted at /tests/golden), then 200 digits streamed to a server at each
rate scale that is given: arm_probe.py HOST:PORT NAME RATE_SCALE...
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from golden.make import format_vectors, shipped_vectors
from golden.vectors import SHIPPED, versioned

from edge_sensor import SensorConfig, run_sensor
from latentwire.codec.coder import in_use
from latentwire.codec.parameters import TAILS
from latentwire.tls import Access

IMAGES = 200


def golden() -> dict[str, Any]:
    """How many tables and payloads the golden files hold, and in which files something differs here."""
    made = {versioned(number): format_vectors(number) for number in TAILS} | {SHIPPED: shipped_vectors()}
    models = [model for text in made.values() for model in _models(json.loads(text))]
    return {
        "tables": sum(len({case["tables"] for case in m["cases"]} | set(m.get("tables", {}).values())) for m in models),
        "payloads": sum(len(model["cases"]) for model in models),
        "files": [path.name for path in made],
        "files_that_differ": [path.name for path, text in made.items() if path.read_text() != text],
    }


def streamed(server: str, name: str, rate_scale: float) -> dict[str, Any]:
    """200 digits through the running server: what was coded, image by image, and what came back."""
    messages: list[dict[str, Any]] = []

    def observe(message: Any, coded: Any) -> None:
        listed = {key: getattr(coded, key).tolist() for key in ("anchor", "level", "indices")}
        messages.append({"payload": coded.payload.hex(), **listed})

    results = Path(f"/tmp/{rate_scale}.jsonl")
    # Messages are closed by count alone, so that they are the same ones however slow the machine is.
    config = SensorConfig(
        bundle="digits", server=server, source="digits", name=name, rate_scale=rate_scale, limit=IMAGES, delay_s=600,
        connect_timeout_s=60, results=results, progress=False, access=Access(insecure=True),
    )  # fmt: skip
    report = run_sensor(config, observe)
    rows = sorted((json.loads(line) for line in results.read_text().splitlines()), key=lambda row: row["sequence"])
    return {
        "answered": report.images_answered,
        "accuracy": report.accuracy,
        "messages": messages,
        "labels": [row["label"] for row in rows],
        "probabilities": [row["probability"] for row in rows],
    }


def main() -> None:
    """Print all of it."""
    server, name, *scales = sys.argv[1:]
    found = {
        "machine": platform.machine(),
        "versions": {package: version(package) for package in ("latentwire", "numpy", "onnxruntime", "grpcio")},
        "coder": in_use(),
        "golden": golden(),
        "streams": {scale: streamed(server, name, float(scale)) for scale in scales},
    }
    print(json.dumps(found))


def _models(vectors: dict[str, Any]) -> list[dict[str, Any]]:
    if "models" in vectors:
        return list(vectors["models"].values())
    return [model for models in vectors["bundles"].values() for model in models.values()]


if __name__ == "__main__":
    main()

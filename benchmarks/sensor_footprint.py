"""What a sensor costs its machine: the install's size, the time to start, the memory after many images.

    python -m benchmarks.sensor_footprint [--images 10000] [--json FILE]

Installs ``.[sensor]`` into an empty virtual environment, checks that it holds no torch, and streams the shipped digits
from there to a server on this machine.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import psutil
import typer
from rich.console import Console

from latentwire.local_run import serve
from latentwire.report import write_json

ROOT = Path(__file__).resolve().parent.parent
WARM_IMAGES = 1000


def main(images: int = 10_000, json: Path | None = None) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="latentwire-footprint-") as folder:
        row: dict[str, Any] = (
            {"bundle": "digits", "images": images} | _install(Path(folder)) | _stream(Path(folder), images)
        )
    console = Console(highlight=False)
    console.print(f"install of the extra sensor: {row['install_bytes'] / 1e6:.0f} MB, {row['packages']} packages")
    console.print(f"torch in it: {'yes' if row['torch'] else 'no'}")
    console.print(f"process start to first answer: {row['start_s']:.2f} s")
    console.print(f"resident memory after {WARM_IMAGES} images: {row['resident_warm_bytes'] / 1e6:.1f} MB")
    console.print(f"resident memory after {images} images: {row['resident_bytes'] / 1e6:.1f} MB")
    write_json(json, [row])


def _install(folder: Path) -> dict[str, Any]:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    before = _bytes(site)
    _run(python, "-m", "pip", "install", "--quiet", "--no-compile", f"{ROOT}[sensor]")
    names = [line.split("==")[0] for line in _run(python, "-m", "pip", "freeze").splitlines()]
    return {
        "install_bytes": _bytes(site) - before,
        "packages": len(names),
        "torch": any(name.lower() in ("torch", "torchvision") for name in names),
    }


def _stream(folder: Path, images: int) -> dict[str, Any]:
    python, results = folder / "venv" / "bin" / "python", folder / "results.jsonl"
    with serve("digits") as (target, _):
        # more than wanted, so that the process is still there when it is looked at
        command = [str(python), "-m", "latentwire", "sensor", "--server", target, "--source", "digits"]
        command += ["--limit", str(4 * images), "--results", str(results), "--no-progress"]
        start = time.monotonic()
        sensor = subprocess.Popen(command)
        resident: dict[int, int] = {}
        first = 0.0
        try:
            while images not in resident:
                if sensor.poll() is not None:
                    raise SystemExit(f"the sensor ended with status {sensor.returncode}")
                lines = results.read_bytes().count(b"\n") if results.exists() else 0
                first = first or (time.monotonic() - start if lines else 0.0)
                for mark in (WARM_IMAGES, images):
                    if lines >= mark and mark not in resident:
                        resident[mark] = psutil.Process(sensor.pid).memory_info().rss
                time.sleep(0.01)
        finally:
            sensor.terminate()
            sensor.wait()
    return {"start_s": first, "resident_warm_bytes": resident[WARM_IMAGES], "resident_bytes": resident[images]}


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    typer.run(main)

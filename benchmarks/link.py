"""The automatic rate control on a real thin link: how old images get, how much of the link is used, how still it is.

    python -m benchmarks.link [--short] [--json FILE] [--picture FILE] [--data-root DIR]

A server and a sensor as processes in two network namespaces, a token bucket (``tc … tbf``) on the way up, changed in
steps from 64 kbit/s down to 2 and back. The sensor gets CIFAR-10's test images in an order in which the class persists,
as a camera's does (0.95), at so many a second that the knob's top needs more than 64 kbit/s and its bottom fits 2.
``--short`` streams digits over five steps in 40 s. Needs root and iproute2; ``--relay`` does without them.
"""

import json as jsonlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.link_hindsight import camera_order, fixed_rates
from benchmarks.link_report import Measured, Sample, report, show
from benchmarks.thin_link import RelayLink, ThinLink, why_not
from latentwire.datasets import load_test
from latentwire.errors import LatentwireError
from latentwire.report import write_json

SAMPLE_S = 0.25
STOP_S = 30.0
FOREVER = 10**9  # images: the source goes round until the sensor is stopped


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: the link's rates in bits a second, each for ``each_s``."""

    bundle: str
    data: str
    images_per_s: float
    rates: tuple[float, ...]
    each_s: float
    max_age_s: float
    settle_s: float  # after a step, before the rung is to be still
    model: str | None = None
    relay: bool = False

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.each_s * len(self.rates)

    def rate_at(self, since_s: float) -> float:
        """The link's rate so long after the start."""
        return self.rates[min(max(0, int(since_s / self.each_s)), len(self.rates) - 1)]


DOWN_AND_BACK = (64e3, 32e3, 16e3, 8e3, 4e3, 2e3, 4e3, 8e3, 16e3, 32e3, 64e3)
LONG = Plan("cifar10", "cifar10", 650, DOWN_AND_BACK, 55.0, 4.0, 15.0)
SHORT = Plan("digits", "digits", 300, (16e3, 8e3, 4e3, 8e3, 16e3), 8.0, 4.0, 5.0)


def main(
    short: Annotated[bool, typer.Option("--short", help="40 s of digits.")] = False,
    relay: Annotated[bool, typer.Option("--relay", help="A relay of this machine instead: needs no root.")] = False,
    max_age_s: Annotated[float | None, typer.Option(help="The limit on images' age.")] = None,
    model: Annotated[str | None, typer.Option(help="Entropy model; default: the bundle's.")] = None,
    fps: Annotated[float | None, typer.Option(help="Images a second.")] = None,
    each_s: Annotated[float | None, typer.Option(help="How long each step of the link lasts.")] = None,
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    json: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Run, measure and print."""
    reason = None if relay else why_not()
    if reason is not None:
        raise LatentwireError(f"no thin link can be made here: {reason}; --relay is something like it")
    plan = SHORT if short else LONG
    plan = replace(plan, max_age_s=max_age_s or plan.max_age_s, each_s=each_s or plan.each_s)
    plan = replace(plan, model=model, relay=relay, images_per_s=fps or plan.images_per_s)
    with tempfile.TemporaryDirectory(prefix="latentwire-link-") as folder:
        source = str(_camera_like(Path(folder), data_root)) if plan.data == "cifar10" else plan.data
        measured = run(plan, source, Path(folder))
        rows = report(measured)
        rows += fixed_rates(measured, rows, data_root)
    show(rows)
    write_json(json, rows)
    if picture is not None:
        from benchmarks.link_picture import draw

        draw(rows, picture)


def run(plan: Plan, source: str, folder: Path) -> Measured:
    """Run the pair over the thin link and gather what it did."""
    results = folder / "results.jsonl"
    with (RelayLink if plan.relay else ThinLink)(plan.rates[0]) as link, _server(link, plan) as port:
        options = ["--bundle", plan.bundle, "--server", link.reached(port), "--source", source]
        options += ["--insecure"]  # the link may be one between namespaces, which looks like another machine
        options += ["--name", "link", "--limit", str(FOREVER), "--grace-s", str(STOP_S)]
        options += ["--fps", str(plan.images_per_s), "--results", str(results), "--no-progress"]
        options += ["--rate-control", "auto", "--max-age", f"{plan.max_age_s}s"]
        options += ["--model", plan.model] if plan.model else []
        sensor = subprocess.Popen([*link.at("sensor"), *_latentwire("sensor", options)])
        try:
            start_s, samples = _follow(link, plan, results, sensor)
        finally:
            _stop(sensor)  # what is in flight is answered
    if sensor.returncode:
        raise LatentwireError(f"the sensor failed with status {sensor.returncode}; its message is above")
    lines = [jsonlib.loads(line) for line in results.read_text().splitlines()]
    answered = sorted((line for line in lines if "label" in line), key=lambda line: int(line["sequence"]))
    dropped = sum(line.get("dropped") not in (None, "stopped") for line in lines)
    return Measured(plan, start_s, tuple(samples), answered, dropped)


def _follow(
    link: ThinLink | RelayLink, plan: Plan, results: Path, sensor: "subprocess.Popen[bytes]"
) -> tuple[float, list[Sample]]:
    """Change the link's rate from step to step, from the first answer on, and count what crosses."""
    while not results.exists() or not results.stat().st_size:
        if sensor.poll() is not None:
            raise LatentwireError(f"the sensor ended (status {sensor.returncode}) before the first answer")
        time.sleep(0.02)
    start_s, step, samples = time.monotonic(), 0, list[Sample]()
    while (since_s := time.monotonic() - start_s) < plan.seconds and sensor.poll() is None:
        if int(since_s / plan.each_s) > step:
            step = int(since_s / plan.each_s)
            link.set_rate(plan.rates[step])
        sent, waiting = link.counted()
        samples.append(Sample(time.monotonic(), sent, waiting))
        time.sleep(SAMPLE_S)
    return start_s, samples


@contextmanager
def _server(link: ThinLink | RelayLink, plan: Plan) -> Iterator[int]:
    """A server at the link's far end; its port."""
    command = _latentwire("server", ["--bundle", plan.bundle, "--listen", link.listen, "--insecure"])
    server = subprocess.Popen([*link.at("server"), *command], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None  # it was asked for
        said = re.match(r"listening on .*:(\d+)$", server.stdout.readline())
        if said is None:
            raise LatentwireError("the server did not start; its message is above")
        yield int(said[1])
    finally:
        _stop(server)
        if server.stdout is not None:
            server.stdout.close()


def _latentwire(command: str, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "latentwire", "--log-level", "warning", command, *options]


def _stop(process: "subprocess.Popen[Any]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _camera_like(folder: Path, data_root: Path | None) -> Path:
    """CIFAR-10's test images as files in the order in which they are to come, each below its class's folder."""
    test = load_test("cifar10", data_root)
    for place, index in enumerate(camera_order(test.labels)):
        path = folder / "images" / f"{place:05}" / test.classes[test.labels[index]] / "image.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(test.images[index]).save(path, compress_level=0)
    return folder / "images"


if __name__ == "__main__":
    typer.run(main)

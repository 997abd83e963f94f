"""A fuzzer without coverage: mutate valid bytes, many times; say what became of them, how long it took, and how much.

    python -m tests.fuzz.run --messages 1000000

Exit status 1 if anything was raised but a LatentwireError, if anything was decoded that was not coded, or if a
message took more than 50 ms or 64 MB. A find is written to --finds, as the bytes that made it.
"""

import argparse
import json
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from latentwire.codec import coder

from .corpus import Corpus
from .mutate import mutate_manifest, mutate_message, mutate_model
from .targets import Manifests, Messages, Models

MAX_MESSAGE_MS = 50.0
MAX_MESSAGE_MB = 64.0
SLOW_PER_MESSAGE = 0.005
MODELS_PER_MESSAGE = 0.02
MANIFESTS_PER_MESSAGE = 0.02


@dataclass(slots=True)
class Report:
    """``slowest_ms`` is processor time of one input; ``peak_mb`` what the whole run held above its start."""

    target: str
    inputs: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    finds: int = 0
    slowest_ms: float = 0.0
    mean_ms: float = 0.0
    peak_mb: float = 0.0


def fuzz(
    target: str,
    take: Callable[[bytes], str],
    mutate: Callable[[random.Random], bytes],
    inputs: int,
    seed: int,
    finds: Path | None,
) -> Report:
    """Give ``take`` so many mutations; input i comes from the seed and i alone."""
    report = Report(target, inputs)
    start_mb = _reset_peak_mb()
    total_s = 0.0
    for i in range(inputs):
        data = mutate(random.Random(f"{seed} {target} {i}"))
        try:
            seconds, outcome = _timed(take, data)
        except Exception as error:  # whatever it is, it is a find
            report.finds += 1
            outcome = f"FOUND {type(error).__name__}"
            _keep(finds, f"{target}-{seed}-{i}", data)
        else:
            total_s += seconds
            report.slowest_ms = max(report.slowest_ms, 1000 * seconds)
        report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1
    report.mean_ms = 1000 * total_s / max(inputs, 1)
    report.peak_mb = _peak_mb() - start_mb
    return report


def _timed(take: Callable[[bytes], str], data: bytes) -> tuple[float, str]:
    """Processor seconds and outcome; a slow one is given two more chances, for what else the machine did."""
    start = time.thread_time()
    outcome = take(data)
    seconds = time.thread_time() - start
    for _ in range(2 if 1000 * seconds > MAX_MESSAGE_MS / 2 else 0):
        start = time.thread_time()
        take(data)
        seconds = min(seconds, time.thread_time() - start)
    return seconds, outcome


def _keep(finds: Path | None, name: str, data: bytes) -> None:
    print(f"{name}: {traceback.format_exc()}{data[:100].hex()}", file=sys.stderr)
    if finds is not None:
        finds.mkdir(parents=True, exist_ok=True)
        (finds / name).write_bytes(data)


def _reset_peak_mb() -> float:
    """Let the kernel count the peak anew; the memory held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    return _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> int:
    """Run all targets and print a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coder", choices=coder.BACKENDS, default=coder.in_use())
    parser.add_argument("--finds", type=Path, help="folder for inputs that broke something")
    parser.add_argument("--json", type=Path, help="also write the reports to this file")
    options = parser.parse_args()
    warnings.simplefilter("error")  # a number that overflows is a find too
    coder.use(options.coder)
    corpus = Corpus()
    with TemporaryDirectory(prefix="latentwire-fuzz-") as folder:
        plans: list[tuple[str, Callable[[bytes], str], Callable[[random.Random], bytes], float]] = [
            ("message", Messages(corpus), lambda r: mutate_message(corpus, r), 1.0),
            ("slow message", Messages(corpus), lambda r: r.choice(corpus.slow), SLOW_PER_MESSAGE),
            ("model", Models(), lambda r: mutate_model(corpus, r), MODELS_PER_MESSAGE),
            ("manifest", Manifests(Path(folder)), lambda r: mutate_manifest(corpus, r), MANIFESTS_PER_MESSAGE),
        ]
        reports = [
            fuzz(name, take, mutate, int(part * options.messages), options.seed, options.finds)
            for name, take, mutate, part in plans
        ]
    for report in reports:
        _print(report)
    if options.json:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    in_bounds = all(r.slowest_ms <= MAX_MESSAGE_MS and r.peak_mb <= MAX_MESSAGE_MB for r in reports[:2])
    return 0 if in_bounds and not any(report.finds for report in reports) else 1


def _print(report: Report) -> None:
    print(
        f"{report.target}: {report.inputs} inputs, {report.finds} finds; mean {report.mean_ms:.3f} ms, "
        f"slowest {report.slowest_ms:.1f} ms, peak {report.peak_mb:.1f} MB above the start"
    )
    for outcome, count in sorted(report.outcomes.items(), key=lambda item: -item[1]):
        print(f"  {count:9} {outcome}")


if __name__ == "__main__":
    sys.exit(main())

"""Random faults between a sensor with a spool and a server: is an image lost, or answered twice?

    python -m benchmarks.faults --faults 200

A server and a sensor run as processes, with a link between them that fails. Each fault is drawn by a seed: the server
or the sensor is killed (SIGKILL) and started again, the link is cut or goes silent for 0.1 to 30 s, or is reset in the
middle of a message. After each, the script waits until results come again. At the end the sensor is stopped, and every
image that its source gave must have one result, with the label that image gets without faults.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faulty_link import FaultyLink
from edge_sensor.clocks import now
from edge_sensor.spool_file import SpoolSettings, open_spool
from latentwire.datasets import load_test
from latentwire.errors import LatentwireError
from latentwire.report import write_json

KINDS = ("server_killed", "sensor_killed", "link_cut", "link_silent", "reset_in_message")
RECOVERY_S = 120.0  # results must come again within this
STOP_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """What faults did. ``images`` were taken from the source; recovery is from a fault's end to the next result."""

    faults: int
    kinds: dict[str, int]
    images: int
    lost: int
    answered_twice: int
    wrong: int
    spool_left: int
    recovery_p50_s: float
    recovery_max_s: float
    elapsed_s: float

    def row(self) -> dict[str, int | float]:
        """A flat row."""
        return {
            "faults": self.faults,
            **self.kinds,
            "images": self.images,
            "lost": self.lost,
            "answered_twice": self.answered_twice,
            "wrong": self.wrong,
            "spool_left": self.spool_left,
            "recovery_p50_s": round(self.recovery_p50_s, 2),
            "recovery_max_s": round(self.recovery_max_s, 2),
            "elapsed_s": round(self.elapsed_s, 1),
        }


@dataclass(slots=True)
class Pair:
    """The two processes, the link between them, and how to start either again."""

    folder: Path
    bundle: str
    images_per_s: float
    link: FaultyLink
    server: asyncio.subprocess.Process | None = None
    sensor: asyncio.subprocess.Process | None = None
    recoveries_s: list[float] = field(default_factory=list)

    @property
    def results(self) -> Path:
        """One line an image."""
        return self.folder / "results.jsonl"

    @property
    def spool(self) -> Path:
        """The sensor's."""
        return self.folder / "spool.db"

    async def start_server(self) -> None:
        """Start it, on the port it had before, and wait until it listens."""
        listen = f"127.0.0.1:{self.link.target}"
        self.server = await _start(
            "server", "--bundle", self.bundle, "--listen", listen, stdout=asyncio.subprocess.PIPE
        )
        assert self.server.stdout is not None  # it was asked for
        said = (await self.server.stdout.readline()).decode()
        if not said.startswith("listening on "):
            raise LatentwireError(f"the server did not start (status {await self.server.wait()})")
        self.link.target = int(said.rpartition(":")[2])

    async def start_sensor(self) -> None:
        """Start it on its spool."""
        options = ["--bundle", self.bundle, "--server", f"127.0.0.1:{self.link.port}", "--source", "digits"]
        options += ["--limit", str(10**9), "--fps", str(self.images_per_s), "--name", "mast", "--no-progress"]
        options += ["--spool", str(self.spool), "--results", str(self.results), "--grace-s", str(STOP_S)]
        options += ["--max-backoff-s", "1"]
        self.sensor = await _start("sensor", *options)

    async def results_come(self) -> None:
        """Wait until the results file grows; LatentwireError if a process ended by itself, or it takes too long."""
        started_s = time.monotonic()
        size = self.results.stat().st_size if self.results.exists() else 0
        while not self.results.exists() or self.results.stat().st_size <= size:
            for name, process in (("server", self.server), ("sensor", self.sensor)):
                if process is not None and process.returncode is not None:
                    raise LatentwireError(f"the {name} ended by itself (status {process.returncode})")
            if time.monotonic() - started_s > RECOVERY_S:
                raise LatentwireError(f"no result came within {RECOVERY_S:g} s after a fault")
            await asyncio.sleep(POLL_S)
        self.recoveries_s.append(time.monotonic() - started_s)

    async def strike(self, kind: str, chance: random.Random, longest_s: float) -> None:
        """One fault, and its end."""
        for_s = 0.1 * (longest_s / 0.1) ** chance.random()  # as many from 0.1 to 1 s as from 1 to 10
        match kind:
            case "server_killed":
                await _kill(self.server)
                await self.start_server()
            case "sensor_killed":
                await _kill(self.sensor)
                await self.start_sensor()
            case "link_cut":
                await self.link.cut(for_s)
            case "link_silent":
                await self.link.silence(for_s)
            case "reset_in_message":
                await self.link.break_message()

    async def stop(self) -> None:
        """Stop the sensor as its operator would; LatentwireError if that does not end well."""
        assert self.sensor is not None
        self.sensor.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self.sensor.wait(), 2 * STOP_S)
        if status != 0:
            raise LatentwireError(f"the sensor ended with status {status}")


async def run_faults(
    faults: int, seed: int, *, longest_s: float = 30.0, bundle: str = "digits", images_per_s: float = 200.0
) -> Outcome:
    """Strike ``faults`` times, each kind as often as the others, in an order and with lengths drawn by ``seed``."""
    chance = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(faults)]
    chance.shuffle(kinds)
    started_s = time.monotonic()
    async with _running(bundle, images_per_s) as pair:
        await pair.results_come()
        pair.recoveries_s.clear()
        for number, kind in enumerate(kinds, 1):
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            await pair.strike(kind, chance, longest_s)
            await pair.results_come()
            print(f"fault {number} of {faults}: {kind}, results after {pair.recoveries_s[-1]:.2f} s", file=sys.stderr)
        await pair.stop()
        recoveries_s = sorted(pair.recoveries_s)
        images, lost, twice, wrong, left = _judge(pair)
    return Outcome(
        faults=faults,
        kinds=dict(Counter(kinds)),
        images=images,
        lost=lost,
        answered_twice=twice,
        wrong=wrong,
        spool_left=left,
        recovery_p50_s=recoveries_s[len(recoveries_s) // 2],
        recovery_max_s=recoveries_s[-1],
        elapsed_s=time.monotonic() - started_s,
    )


@asynccontextmanager
async def _running(bundle: str, images_per_s: float) -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="latentwire-faults-") as folder:
        async with FaultyLink(0) as link:
            pair = Pair(Path(folder), bundle, images_per_s, link)
            try:
                await pair.start_server()
                await pair.start_sensor()
                yield pair
            finally:
                for process in (pair.sensor, pair.server):
                    await _kill(process)


def _judge(pair: Pair) -> tuple[int, int, int, int, int]:
    """Images, those lost, answered twice, and answered as another image; and images left in the spool."""
    rows = [json.loads(line) for line in pair.results.read_text().splitlines()]
    spool, _ = open_spool(SpoolSettings(pair.spool, 1 << 30, "oldest", "normal"), now())
    left = spool.waiting.images + sum(message.batch.images for message in spool.sent())
    images = spool.state.coded_images
    spool.close()
    answers = Counter(row["sequence"] for row in rows if "label" in row)
    known: dict[str, str] = {}
    around = len(load_test("digits", None).images)
    wrong = 0
    for row in rows:
        of_source = f"digits/{row['sequence'] % around}" == row["item"]  # the source's order, over all restarts
        wrong += "label" not in row or not of_source or known.setdefault(row["item"], row["label"]) != row["label"]
    return images, images - len(answers), sum(count > 1 for count in answers.values()), wrong, left


async def _start(command: str, *options: str, stdout: int | None = None) -> asyncio.subprocess.Process:
    run = [sys.executable, "-m", "latentwire", "--log-level", "error", command, *options]
    return await asyncio.create_subprocess_exec(*run, stdout=stdout)


async def _kill(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        process.kill()
        await process.wait()


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-s", type=float, default=30.0, help="of a cut or silent link")
    parser.add_argument("--images-per-s", type=float, default=200.0)
    parser.add_argument("--bundle", default="digits")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    run = run_faults(
        asked.faults, asked.seed, longest_s=asked.longest_s, bundle=asked.bundle, images_per_s=asked.images_per_s
    )
    row = asyncio.run(run).row()
    print("  ".join(f"{name} {value}" for name, value in row.items()))
    write_json(asked.json, [row])
    if row["lost"] or row["answered_twice"] or row["wrong"] or row["spool_left"]:
        sys.exit("an image was lost, answered twice or left: see above")


if __name__ == "__main__":
    main()

"""Malformed messages beside well-behaved streams: does the server crash, leak, answer wrongly, or make others wait?

    python -m benchmarks.malformed --messages 1000000 --json docs/results/malformed.json

Three processes on loopback: a server, one that sends malformed messages at a given pace, one whose streams send by the
clock and check every answer. Nine in ten malformed messages are damaged batches, which are refused one by one; the
others break the protocol, each on a stream of its own. A hundred connections that hardly say a thing are held open all
along. Windows of calm, of right messages at the attack's pace, and of the attack take turns, so that the three are
measured in the same minutes.
"""

import argparse
import contextlib
import multiprocessing
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.malformed_attack import Attack, attack
from benchmarks.malformed_honest import Heard, Span, behave
from latentwire.errors import LatentwireError
from latentwire.report import Value, write_json

STOP_S = 60.0
SETTLE_S = 1.0  # between the last of an attack and what counts as calm


@dataclass(frozen=True, slots=True)
class Asked:
    """What to run: windows of calm, of right messages and of attack take turns until ``messages`` are sent."""

    messages: int = 1_000_000
    per_s: float = 500.0
    streams: int = 20
    every_s: float = 0.1
    attack_s: float = 20.0
    calm_s: float = 10.0  # and as long of right messages
    bundle: str = "digits"
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of it; memory (bytes) and descriptors of the server at the end of each attack."""

    attack: Attack
    heard: Heard
    attacked: list[Span] = field(default_factory=list)
    calm: list[Span] = field(default_factory=list)
    loaded: list[Span] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    status: int | None = None
    tracebacks: int = 0

    def row(self) -> dict[str, Value]:
        """A flat row."""
        calm, loaded, attacked = (self.heard.percentile_ms(s, 99) for s in (self.calm, self.loaded, self.attacked))
        half = len(self.resident) // 2
        return {
            "malformed_messages": self.attack.sent.total(),
            **{f"sent_{kind}": count for kind, count in sorted(self.attack.sent.items())},
            **{f"refused_{name}": count for name, count in sorted(self.attack.refused.items())},
            "harmless": self.attack.harmless,
            "strange": self.attack.strange.total(),
            "silent_connections_closed": self.attack.loris_ended,
            "messages": len(self.heard.took_s),
            "wrong": self.heard.wrong,
            "calm_latency_p50_ms": round(self.heard.percentile_ms(self.calm, 50), 2),
            "calm_latency_p99_ms": round(calm, 2),
            "loaded_latency_p50_ms": round(self.heard.percentile_ms(self.loaded, 50), 2),
            "loaded_latency_p99_ms": round(loaded, 2),
            "latency_p50_ms": round(self.heard.percentile_ms(self.attacked, 50), 2),
            "latency_p99_ms": round(attacked, 2),
            "ratio": round(attacked / calm, 2),
            "against": "p99 while calm",
            "ratio_to_loaded": round(attacked / loaded, 2),
            "resident_first_bytes": self.resident[0],
            "resident_half_bytes": self.resident[half],
            "resident_last_bytes": self.resident[-1],
            "descriptors_first": self.descriptors[0],
            "descriptors_last": self.descriptors[-1],
            "exit_status": self.status,
            "tracebacks": self.tracebacks,
        }

    def failures(self) -> list[str]:
        """What must never be, in words."""
        found = [f"{count} x {what}" for what, count in self.attack.strange.items()]
        if self.heard.wrong:
            found.append(f"{self.heard.wrong} wrong answers")
        if self.status != 0 or self.tracebacks:
            found.append(f"the server ended with {self.status}, {self.tracebacks} tracebacks")
        return found


def run(asked: Asked) -> Outcome:
    """Blocks for ``messages / per_s`` seconds and half as long again."""
    spawn = multiprocessing.get_context("spawn")
    go, tame, ready, stop = (spawn.Event() for _ in range(4))
    attacks: Any = spawn.Queue()
    answers: Any = spawn.Queue()
    with _server(asked.bundle) as (server, address, log):
        honest = (address, asked.bundle, asked.streams, asked.every_s, ready, stop, answers)
        hostile = (address, asked.bundle, asked.seed, asked.messages, asked.per_s, go, tame, attacks)
        processes = [spawn.Process(target=behave, args=honest), spawn.Process(target=attack, args=hostile)]
        for process in processes:
            process.start()
        try:
            while not ready.wait(1):
                _check(server, processes)
            outcome = Outcome(Attack(), Heard())
            while not outcome.attack.sent:
                _windows(asked, outcome, server, go, tame, attacks)
                _check(server, processes)
            stop.set()
            outcome.heard = answers.get(timeout=STOP_S)
        finally:
            for process in processes:
                process.join(5)
                process.kill()
        server.terminate()
        outcome.status = server.wait(STOP_S)
        outcome.tracebacks = log.read_text(errors="replace").count("Traceback")
    return outcome


def _windows(
    asked: Asked, outcome: Outcome, server: "subprocess.Popen[bytes]", go: Any, tame: Any, attacks: Any
) -> None:
    """Some seconds of calm, some of right messages, and some of the attack, if it has not ended."""
    begun_s = time.monotonic()
    time.sleep(asked.calm_s)
    outcome.calm.append((begun_s, time.monotonic()))
    tame.set()
    go.set()
    begun_s = time.monotonic()
    time.sleep(asked.calm_s)
    outcome.loaded.append((begun_s, time.monotonic()))
    tame.clear()
    begun_s = time.monotonic()
    with contextlib.suppress(queue.Empty):
        outcome.attack = attacks.get(timeout=asked.attack_s)
    go.clear()
    outcome.attacked.append((begun_s, time.monotonic()))
    time.sleep(SETTLE_S)
    watched = psutil.Process(server.pid)
    outcome.resident.append(watched.memory_info().rss)
    outcome.descriptors.append(watched.num_fds())


def _check(server: "subprocess.Popen[bytes]", processes: list[Any]) -> None:
    if server.poll() is not None:
        raise LatentwireError(f"the server ended with {server.returncode} under attack")
    for process in processes:
        if process.exitcode not in (None, 0):
            raise LatentwireError(f"a process of the benchmark failed ({process.exitcode}); its message is above")


@contextlib.contextmanager
def _server(bundle: str) -> Iterator[tuple["subprocess.Popen[bytes]", str, Path]]:
    """The process, its address, and the file of its log."""
    with tempfile.TemporaryDirectory(prefix="latentwire-malformed-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "latentwire", "server", "--bundle", bundle, "--listen", "127.0.0.1:0"]
        with log.open("wb") as file:
            server = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=file)
        with server:
            try:
                assert server.stdout is not None
                said = server.stdout.readline().decode().split()
                if not said:
                    raise LatentwireError(f"the server did not start: {log.read_text()[-500:]}")
                yield server, said[-1], log
            finally:
                server.kill()


def main() -> None:
    """Print one row; exit status 1 if anything happened that must never."""
    asked = Asked()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=asked.messages, help="malformed ones")
    parser.add_argument("--per-s", type=float, default=asked.per_s, help="of them, while the attack lasts")
    parser.add_argument("--attack-s", type=float, default=asked.attack_s, help="length of a window of attack")
    parser.add_argument("--calm-s", type=float, default=asked.calm_s, help="of calm, and of right messages")
    parser.add_argument("--streams", type=int, default=asked.streams, help="well-behaved ones")
    parser.add_argument("--bundle", default=asked.bundle)
    parser.add_argument("--seed", type=int, default=asked.seed)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = {name: value for name, value in vars(given).items() if name != "json"}
    outcome = run(Asked(**chosen))
    row = outcome.row()
    print("\n".join(f"{name}: {value}" for name, value in row.items()))
    write_json(given.json, [row])
    if failures := outcome.failures():
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()

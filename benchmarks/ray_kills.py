"""Replicas of the decoder pool killed under load: ``python -m benchmarks.ray_kills [--json FILE]``.

A server with ``--backend ray`` on a Ray of this machine, a sensor that streams the held-out digits with every image
refined, and every few seconds a kill -9 of one replica's process. Afterwards each image that was sent has its one
result, and each digit always the same. Needs the ray and dev extras.
"""

import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from latentwire.errors import LatentwireError
from latentwire.local_run import stream
from latentwire.report import Value, write_json

UNENDING = 10**9


def main(
    seconds: Annotated[float, typer.Option(help="How long the sensor streams.")] = 60.0,
    every_s: Annotated[float, typer.Option(help="Seconds from kill to kill.")] = 5.0,
    replicas: Annotated[int, typer.Option(min=1, help="The pool's most replicas.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Measure and print; exit status 1 if an image was lost or answered twice."""
    row = kill_replicas(seconds, every_s, replicas)
    Console(highlight=False).print(_said(row))
    write_json(json, [row])
    if row["lost"] or row["doubled"] or row["unlike"]:
        raise LatentwireError("an image was lost, answered twice, or answered otherwise than before: see above")


def _said(row: dict[str, Any]) -> str:
    return (
        f"{row['kills']} replicas killed in {row['seconds']:.0f} s: {row['images']} images sent, {row['lost']} lost, "
        f"{row['doubled']} answered twice, {row['unlike']} answered otherwise than before; "
        f"latency {row['latency_p50_ms']:.0f} ms median, {row['latency_p99_ms']:.0f} ms p99, "
        f"{row['latency_most_ms']:.0f} ms at most"
    )


def kill_replicas(seconds: float, every_s: float, replicas: int) -> dict[str, Value]:
    """Stream for so many seconds while replicas are killed; what came of it."""
    sensor = ["--rate-scale", "4", "--threads", "1"]
    server = ["--backend", "ray", "--max-replicas", str(replicas), "--threads", "1"]
    kills = 0
    with stream("digits", "digits", UNENDING, 16, sensor, server) as running:
        running.wait_for(100)
        start_s = time.monotonic()
        while (left_s := start_s + seconds - time.monotonic()) > 0:
            time.sleep(min(every_s, left_s))
            if left_s > every_s:
                kills += _kill_one()
        results = running.finish(stop=True)
    return {"kills": kills, "seconds": seconds, **_judged(results)}


def _kill_one() -> int:
    """Kill a replica's process; 1, or 0 while none is up. The pool's own supervisor is no replica."""
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith("ray::ServeReplica:latentwire") for part in process.info["cmdline"] or ()):
            process.send_signal(signal.SIGKILL)
            return 1
    return 0


def _judged(results: list[dict[str, Any]]) -> dict[str, Value]:
    """``results`` by sequence, as the sensor wrote them, one an answer."""
    sequences = [int(row["sequence"]) for row in results]
    sent = max(sequences) + 1
    labels: dict[str, set[int]] = defaultdict(set)
    for row in results:
        labels[row["item"]].add(row["label"])
    latency = sorted(float(row["latency_ms"]) for row in results)
    return {
        "images": sent,
        "lost": sent - len(set(sequences)),
        "doubled": len(sequences) - len(set(sequences)),
        "unlike": sum(len(each) > 1 for each in labels.values()),
        "latency_p50_ms": latency[len(latency) // 2],
        "latency_p99_ms": latency[len(latency) * 99 // 100],
        "latency_most_ms": latency[-1],
    }


if __name__ == "__main__":
    typer.run(main)

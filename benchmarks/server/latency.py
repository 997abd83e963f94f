"""Latency by the clock: at equal load, and among thousands of streams that have nothing to say."""

import numpy as np

from benchmarks.server.bare import Bare
from benchmarks.server.cases import Case, measure, run
from benchmarks.server.load import Load
from benchmarks.server.plan import Cores, Plan, Progress, Row
from benchmarks.server.prepared import Prepared
from benchmarks.server.processes import Served
from edge_server.pace import DELAY_S

BATCH_DELAY_MS = 1e3 * DELAY_S


def equal_load(
    start: Row, cases: list[Case], images_per_s: float, plan: Plan, cores: Cores, progress: Progress
) -> list[Row]:
    """Latencies of servers that all are sent the same images a second, in turns; ratios to the last of them."""
    found: dict[Case, list[tuple[float, float]]] = {case: [] for case in cases}
    for number in range(plan.rounds):
        for case in cases:
            progress(f"{images_per_s:.0f} images a second, round {number + 1}: {case.name}")
            loaded = measure(case, plan, cores, every_s=case.streams * case.size / images_per_s).loaded
            found[case].append((loaded.percentile_ms(50), loaded.percentile_ms(99)))
    last = np.array(found[cases[-1]])
    rows = []
    for case, latencies in found.items():
        p50, p99 = np.array(latencies).T
        row = start | {"part": "equal load"} | case.row() | {"images_per_s": images_per_s}
        row |= {"latency_p50_ms": float(np.median(p50)), "latency_p99_ms": float(np.median(p99))}
        row |= {"latency_p99_low_ms": float(p99.min()), "latency_p99_high_ms": float(p99.max())}
        rows.append(row | {"ratio": float(np.median(p99 / last[:, 1])), "against": f"{cases[-1].name}'s p99"})
    return rows


def idle(
    start: Row, some: Prepared, served: Served, plan: Plan, cores: Cores, bare: Bare, progress: Progress
) -> list[Row]:
    """A new server with many idle streams and some active ones: p99 of these, and memory a stream."""
    progress(f"{plan.idle_streams} idle streams")
    case = Case("latentwire", 1, some.share_refined, served, some.sensors, len(some.batches), plan.streams, 1, _any)
    every_s = 1 / plan.active_images_per_s
    count = plan.streams + plan.idle_streams

    def load(connections: int) -> Load:
        address = served.address
        return Load(
            address,
            some.sensors(address, connections),
            len(some.batches),
            plan.streams,
            plan.paced_s,
            plan.warm_s,
            1,
            every_s,
        )

    alone = run(load(plan.streams), case, cores).loaded
    before = served.memory_bytes()
    after: list[int] = []
    crowded = run(load(count), case, cores, lambda: after.append(served.memory_bytes())).loaded
    active = served.memory_bytes()
    one_ms = 1e3 * bare.one_image_s(some)
    row = start | {"part": "idle streams"} | case.row()
    row |= {"idle_streams": plan.idle_streams, "images_per_s": plan.streams * plan.active_images_per_s}
    row |= {"latency_p50_ms": crowded.percentile_ms(50), "latency_p99_ms": crowded.percentile_ms(99)}
    row |= {"latency_p99_without_idle_ms": alone.percentile_ms(99), "one_image_bare_ms": one_ms}
    row |= {
        "kib_a_stream": (after[0] - before) / count / 1024,
        "kib_more_when_active": (active - after[0]) / 1024 / plan.streams,
    }
    added = crowded.percentile_ms(99) - one_ms
    return [row | {"p99_added_ms": added, "ratio": added / BATCH_DELAY_MS, "against": "the batch delay"}]


def _any(answers: dict[int, bytes]) -> None:
    """They were checked under full load."""

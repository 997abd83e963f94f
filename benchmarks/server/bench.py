"""``latentwire bench server``: what one core serves, against a bare loop and against other servers.

All servers run on the same core, the load on another; each server has its turn in each of several rounds, and the bare
loop before and after, so that a ratio is of one round. Images a second are by the wall's clock; ``cores_busy`` of a row
says how much of its core the server had, which is less than one where other work shares the machine.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.server import latency
from benchmarks.server.bare import Bare
from benchmarks.server.cases import OURS, Case, Measured, cases, measure
from benchmarks.server.missing import missing
from benchmarks.server.plan import EVERY_IMAGE, LARGE, Cores, Plan, Progress, Row
from benchmarks.server.prepared import load, prepare
from benchmarks.server.processes import Served, serving
from benchmarks.timing import Spread
from edge_server.pipeline import Pipeline

SERVER = ("latentwire", "--log-level", "warning", "server", "--threads", "1", "--listen", "127.0.0.1:0", "--bundle")
RIVALS = {"litserve": {"litserve", "fastapi", "uvicorn"}, "unary": set[str](), "jpeg": {"fastapi", "uvicorn", "PIL"}}


def run_server_bench(bundle: str, data_root: Path | None, plan: Plan, progress: Progress) -> list[Row]:
    """All rows of one bundle; a server whose packages are not installed has a row of ``part`` "missing"."""
    subject, cores, absent = load(bundle, data_root), Cores.of_this_process(), set(missing())
    pipeline = Pipeline(subject.bundle, decoder_threads=1)
    every = {size: prepare(subject, pipeline, EVERY_IMAGE, size) for size in (1, LARGE)}
    start = subject.row("full load") | {"model": subject.bundle.manifest.variant().default_model}
    with ExitStack() as stack:

        def begin(*command: str) -> Served:
            progress(f"{bundle}: starting {command[0]}")
            return stack.enter_context(serving(command, {cores.server}))

        servers = {OURS: begin(*SERVER, bundle)}
        for name, needs in RIVALS.items():
            if not needs & absent:
                servers[name] = begin("benchmarks.server.rivals", name, bundle, str(EVERY_IMAGE))
        bare = Bare(every[LARGE], cores.server, plan.seconds)
        compared = cases(plan, subject, pipeline, every, servers)
        found, loop = _rounds(compared, bare, plan, cores, progress)
        rows = [bare.row(start, _spread("images_per_s", loop))]
        rows += [row for case in compared for row in _full_load(start, case, found, loop)]
        rows += _equal_load(start, compared, found, plan, cores, progress)
    with serving([*SERVER, bundle], {cores.server}) as fresh:
        rows += latency.idle(start, every[1], fresh, plan, cores, bare, progress)
    gone: list[Row] = [
        {"part": "missing", "server": name, "needs": ", ".join(sorted(RIVALS[name] & absent))} for name in RIVALS
    ]
    return rows + [start | row for row in gone if row["server"] not in servers]


def _rounds(
    compared: list[Case], bare: Bare, plan: Plan, cores: Cores, progress: Progress
) -> tuple[dict[Case, list[Measured]], NDArray[np.float64]]:
    found: dict[Case, list[Measured]] = {case: [] for case in compared}
    loop: list[float] = []
    for number in range(plan.rounds):
        before = bare.images_per_s()
        for case in compared:
            progress(f"round {number + 1} of {plan.rounds}: {case.name}, {case.size} images a message")
            found[case].append(measure(case, plan, cores))
        loop.append((before + bare.images_per_s()) / 2)
    return found, np.array(loop)


def _full_load(start: Row, case: Case, found: dict[Case, list[Measured]], loop: NDArray[np.float64]) -> list[Row]:
    """One row against the bare loop, and one against each rival that has messages of that size."""
    measured = found[case]
    speed = np.array([one.images_per_s for one in measured])
    row = start | case.row() | _spread("images_per_s", speed)
    row |= {"cores_busy": float(np.median([one.cores_busy for one in measured]))}
    for percent in (50, 99):
        row[f"latency_p{percent}_ms"] = float(np.median([one.loaded.percentile_ms(percent) for one in measured]))
    rows = [row | _spread("ratio", speed / loop) | {"against": "bare loop"}]
    if case.name == OURS:
        for other, theirs in found.items():
            if other.name != OURS and other.size == case.size:
                ratio = speed / np.array([one.images_per_s for one in theirs])
                rows.append(row | _spread("ratio", ratio) | {"against": other.name})
    return rows


def _equal_load(
    start: Row, compared: list[Case], found: dict[Case, list[Measured]], plan: Plan, cores: Cores, progress: Progress
) -> list[Row]:
    """Ours and LitServe at half of what LitServe serves at most, one image a message."""
    theirs = next((case for case in compared if case.name == "litserve" and case.size == 1), None)
    if theirs is None:
        return []
    ours = next(case for case in compared if case.name == OURS and case.size == 1)
    half = float(np.median([one.images_per_s for one in found[theirs]])) / 2
    ours = replace(ours, streams=theirs.streams, in_flight=1)
    return latency.equal_load(start, [ours, theirs], half, plan, cores, progress)


def _spread(name: str, values: NDArray[np.float64]) -> Row:
    spread = Spread.of(values)
    return {name: spread.median, f"{name}_low": spread.low, f"{name}_high": spread.high}

"""Servers under load: which, with what, and one measurement of one of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.codec import Subject
from benchmarks.server.load import Load, Loaded, LoadProcess
from benchmarks.server.peers import Peer
from benchmarks.server.plan import A_TENTH, LARGE, Cores, Plan, Row
from benchmarks.server.prepared import Address, Prepared, as_jpeg, labels_of_json, labels_of_proto, prepare
from benchmarks.server.processes import Served
from edge_server.pipeline import Pipeline

OURS = "latentwire"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A server with one kind of message; ``streams`` connections have ``in_flight`` each unanswered at once."""

    name: str
    size: int
    share_refined: float
    served: Served
    peers: Callable[[Address, int], Sequence[Peer]]
    requests: int
    streams: int
    in_flight: int
    check: Callable[[dict[int, bytes]], None]

    def row(self) -> Row:
        """What tells it from the others."""
        return {
            "server": self.name,
            "images_per_message": self.size,
            "share_refined": self.share_refined,
            "streams": self.streams,
            "in_flight": self.in_flight,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: images a second by the wall's clock, how much of a core the server had, and latencies."""

    images_per_s: float
    cores_busy: float
    loaded: Loaded


def cases(
    plan: Plan,
    subject: Subject,
    pipeline: Pipeline,
    every: Mapping[int, Prepared],
    servers: Mapping[str, Served],
) -> list[Case]:
    """All that are compared under full load. ``every`` are messages with every image refined, by their size."""
    found = []
    tenth = {size: prepare(subject, pipeline, A_TENTH, size) for size in every}
    for messages in (every, tenth):
        for size, some in messages.items():
            found.append(_ours(plan, servers[OURS], size, some))
    for size, some in every.items():
        if "litserve" in servers:
            found.append(_rival(plan, "litserve", servers, size, some, some.litserve_callers, labels_of_json))
        if "unary" in servers:
            found.append(_rival(plan, "unary", servers, size, some, some.unary_callers, labels_of_proto))
    if "jpeg" in servers:
        pictures = as_jpeg(subject)
        count = plan.callers
        found.append(
            Case("jpeg", 1, 1.0, servers["jpeg"], pictures.callers, len(pictures.files), count, 1, lambda answers: None)
        )
    return found


def measure(case: Case, plan: Plan, cores: Cores, every_s: float | None = None) -> Measured:
    """Load it as fast as it answers, or each stream once in ``every_s``; LatentwireError for wrong answers."""
    streams, address = case.streams, case.served.address
    load = Load(
        address,
        case.peers(address, streams),
        case.requests,
        streams,
        plan.seconds if every_s is None else plan.paced_s,
        plan.warm_s,
        case.in_flight,
        every_s,
    )
    return run(load, case, cores)


def run(load: Load, case: Case, cores: Cores, joined: Callable[[], None] = lambda: None) -> Measured:
    """Carry a load out; ``joined`` is called when all connections stand."""
    process = LoadProcess(load, cores.load)
    joined()
    process.start()
    process.wait()
    before, began = case.served.processor_s(), time.perf_counter()
    process.wait()
    busy = (case.served.processor_s() - before) / (time.perf_counter() - began)
    loaded = process.result()
    case.check(loaded.first)
    return Measured(case.size * loaded.answers / loaded.seconds, busy, loaded)


def _ours(plan: Plan, served: Served, size: int, some: Prepared) -> Case:
    streams = plan.large_streams if size == LARGE else plan.streams
    in_flight = plan.large_in_flight if size == LARGE else plan.in_flight
    check = _checked(some, labels_of_proto)
    return Case(OURS, size, some.share_refined, served, some.sensors, len(some.batches), streams, in_flight, check)


def _rival(
    plan: Plan,
    name: str,
    servers: Mapping[str, Served],
    size: int,
    some: Prepared,
    peers: Callable[[Address, int], Sequence[Peer]],
    labels_of: Callable[[bytes], Sequence[int]],
) -> Case:
    count = plan.large_streams * plan.large_in_flight if size == LARGE else plan.callers
    check = _checked(some, labels_of)
    return Case(name, size, some.share_refined, servers[name], peers, len(some.batches), count, 1, check)


def _checked(some: Prepared, labels_of: Callable[[bytes], Sequence[int]]) -> Callable[[dict[int, bytes]], None]:
    return lambda answers: some.check(answers, labels_of)

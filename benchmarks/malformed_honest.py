"""The well-behaved process of ``benchmarks.malformed``: streams that send by the clock and check every answer."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import grpc
import numpy as np

from benchmarks.malformed_attack import labels, open_stream
from benchmarks.malformed_parts import IMAGES, MESSAGES, Material, wire
from latentwire import messages as m
from latentwire.v1 import stream_pb2
from latentwire.wire import from_server_from_proto

Span = tuple[float, float]  # from, to, by the monotonic clock


@dataclass(slots=True)
class Heard:
    """Of each message: when it was sent (monotonic) and how long its answer took, in seconds."""

    sent_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    wrong: int = 0

    def percentile_ms(self, spans: Sequence[Span], percent: float) -> float:
        """Of the messages sent within ``spans``."""
        sent, took = np.array(self.sent_s), np.array(self.took_s)
        within = np.zeros(len(sent), bool)
        for begin, end in spans:
            within |= (begin <= sent) & (sent < end)
        return float(np.percentile(took[within], percent)) * 1e3 if within.any() else float("nan")


async def _stream(
    channel: grpc.aio.Channel, material: Material, name: str, known: list[tuple[int, ...]], every_s: float,
    heard: Heard, stop: Event,
) -> None:  # fmt: skip
    call = open_stream(channel)
    await call.write(wire(material.hello(name, "s")))
    await call.read()
    due_s, number = time.monotonic(), 0
    while not stop.is_set():
        due_s = max(due_s + every_s, time.monotonic() - every_s)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        begun_s = time.monotonic()
        await call.write(wire(material.batch(number, number * IMAGES)))
        answer = from_server_from_proto(stream_pb2.ServerMessage.FromString(await call.read()))
        heard.sent_s.append(begun_s)
        heard.took_s.append(time.monotonic() - begun_s)
        right = isinstance(answer, m.Results) and answer.first_sequence == number * IMAGES
        heard.wrong += not (right and answer.labels == known[number % MESSAGES])  # type: ignore[union-attr]
        number += 1
    await call.done_writing()


async def _run(address: str, bundle: str, streams: int, every_s: float, ready: Event, stop: Event) -> Heard:
    material, heard = Material(bundle), Heard()
    async with grpc.aio.insecure_channel(address) as channel:
        known = await labels(channel, material, "honest")
        ready.set()
        await asyncio.gather(
            *(_stream(channel, material, f"honest-{n}", known, every_s, heard, stop) for n in range(streams))
        )
    return heard


def behave(address: str, bundle: str, streams: int, every_s: float, ready: Event, stop: Event, report: Any) -> None:
    """The whole process; ``report`` is a queue that takes what it Heard. ``ready`` is set when streams begin."""
    report.put(asyncio.run(_run(address, bundle, streams, every_s, ready, stop)))

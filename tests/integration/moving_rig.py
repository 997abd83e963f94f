"""A running pair whose sensor goes on until it is told to stop, to be moved to other variants and bundles."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import factories
import pytest
from sensor_rig import CuttableLink, rows_of, sensor_config, serving

from edge_sensor import SensorReport, run, run_sensor
from edge_sensor.sources import Frame
from latentwire import messages as m
from latentwire.control_client import ControlClient

T = TypeVar("T")
IMAGE_S = 0.001


class UntilStopped:
    """The same 60 images round and round, until it is told to stop."""

    live = False
    description = "images until stopped"

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.images, self.labels = factories.make_images(60)
        self.given = 0

    def __iter__(self) -> Iterator[Frame]:
        while not self.stop.wait(IMAGE_S):
            at = self.given % len(self.images)
            yield Frame(str(self.given), self.images[at], int(self.labels[at]), time.monotonic())
            self.given += 1


@dataclass
class Pair:
    """A server with a library in ``world/library`` and a sensor with a store in ``world/store``."""

    world: Path
    port: int
    sensor: "asyncio.Task[SensorReport]"
    source: UntilStopped = field(default_factory=UntilStopped)

    async def call(self, use: Callable[[ControlClient], T]) -> T:
        """Use the control service, as a program beside the server would."""

        def in_thread() -> T:
            with ControlClient(f"127.0.0.1:{self.port}", timeout_s=10) as client:
                return use(client)

        return await asyncio.to_thread(in_thread)

    async def push(self, bundle: str, variant: str | None = None, timeout_s: float = 60) -> tuple[m.Rate, m.Rate]:
        return await self.call(lambda client: client.push_bundle("mast", bundle, variant, timeout_s))

    async def set_variant(self, variant: str) -> tuple[m.Rate, m.Rate]:
        return await self.call(lambda client: client.set_variant("mast", variant, 60))

    async def info(self) -> m.SensorInfo:
        (info,) = await self.call(ControlClient.list_sensors)
        return info

    async def answered(self, more: int) -> None:
        """Wait for so many more results."""
        wanted = (await self.info()).images_answered + more
        while (await self.info()).images_answered < wanted:
            assert not self.sensor.done(), self.sensor.result()
            await asyncio.sleep(0.02)

    async def end(self) -> list[int]:
        """Stop the sensor. For each image in order, how many classes its answer is after its own.

        Each has one answer, and none is lost.
        """
        self.source.stop.set()
        report = await self.sensor
        turns = turns_of(self.world)
        assert len(turns) == report.images_sent
        assert not report.dropped
        return turns


def turns_of(world: Path) -> list[int]:
    """How many classes each image's answer is after its own, in order; each has one, and none is left out."""
    rows = sorted(rows_of(world / "results.jsonl"), key=lambda row: row["sequence"])
    assert [row["sequence"] for row in rows] == list(range(len(rows)))
    truths = [factories.CLASSES.index(row["truth"]) for row in rows]
    return [(row["label_index"] - truth) % factories.D for row, truth in zip(rows, truths, strict=True)]


@asynccontextmanager
async def moving(
    world: Path, monkeypatch: pytest.MonkeyPatch, leads: CuttableLink | None = None, **settings: Any
) -> AsyncIterator[Pair]:
    """A pair that has answered some images; ``leads`` is made to lead the sensor to the server."""
    source = UntilStopped()
    monkeypatch.setattr(run, "open_source", lambda *_: source)
    (world / "library").mkdir(exist_ok=True)
    async with serving(world, library=world / "library") as port:
        if leads is not None:
            leads.target = port
        defaults: dict[str, Any] = {"bundle_store": world / "store", "images_per_message": 8, "delay_s": 0.02}
        config = sensor_config(world, world / "results.jsonl", leads.port if leads else port, **(defaults | settings))
        pair = Pair(world, port, asyncio.create_task(asyncio.to_thread(run_sensor, config)), source)
        try:
            while not await pair.call(ControlClient.list_sensors):
                assert not pair.sensor.done(), pair.sensor.result()
                await asyncio.sleep(0.02)
            await pair.answered(16)
            yield pair
        finally:
            source.stop.set()
            await asyncio.wait({pair.sensor})

"""A sensor that turns its own knob, against a real server and over a relay that lets little through."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from command import ctl
from sensor_rig import make_world, rows_of, serving

from latentwire.control_client import ControlClient
from latentwire.errors import CommandRefusedError
from latentwire.messages import RateControl, SensorInfo
from latentwire.relay import CountingRelay

T = TypeVar("T")
BURST_S = 1.0
MESSAGE_BITS = 8 * 400  # more than any message here, framing in


class Running:
    """A sensor process of 100 images a second, over a relay."""

    def __init__(self, port: int, relay: CountingRelay, results: Path, process: asyncio.subprocess.Process) -> None:
        self.port, self.relay, self.results, self.process = port, relay, results, process

    async def ask(self, use: Callable[[ControlClient], T]) -> T:
        """Use a control client."""

        def in_thread() -> T:
            with ControlClient(f"127.0.0.1:{self.port}", timeout_s=30) as client:
                return use(client)

        return await asyncio.to_thread(in_thread)

    async def info(self) -> SensorInfo | None:
        return await self.ask(lambda client: next(iter(client.list_sensors()), None))

    async def until_rate(self, at_most: float = float("inf"), at_least: float = 0.0) -> None:
        """Wait until the server serves the sensor at such a rate scale."""
        async with asyncio.timeout(60):
            while not ((info := await self.info()) and at_least <= info.rate.rate_scale <= at_most):
                assert self.process.returncode is None, "the sensor ended before its rate changed"
                await asyncio.sleep(0.05)

    async def stop(self) -> list[dict[str, Any]]:
        """Stop it, and return its results in order: every image that was coded is answered once."""
        self.relay.up_bits_per_s = 1e7  # what is left may pass
        self.process.terminate()
        assert await asyncio.wait_for(self.process.wait(), 60) == 0
        rows = [row for row in rows_of(self.results) if row.get("dropped") != "stopped"]
        assert sorted(row["sequence"] for row in rows) == list(range(len(rows)))
        # not all: in a long message an odd image at a change of class may be named as its neighbours are
        assert np.mean([row["label"] == row["truth"] for row in rows]) > 0.9
        return sorted(rows, key=lambda row: row["sequence"])


@asynccontextmanager
async def running(world: Path, up_bits_per_s: float, *options: str) -> AsyncIterator[Running]:
    make_world(world)
    results = world / "results.jsonl"
    async with serving(world) as port:
        with CountingRelay("127.0.0.1", port, up_bits_per_s) as relay:
            fixed = ["--server", f"127.0.0.1:{relay.port}", "--source", str(world / "images"), "--name", "mast"]
            fixed += ["--bundle", str(world / "bundle"), "--model", "anchored", "--results", str(results)]
            fixed += ["--limit", "1000000", "--fps", "100", "--grace-s", "30", "--no-progress"]
            command = [sys.executable, "-m", "latentwire", "--log-level", "warning", "sensor", *fixed, *options]
            process = await asyncio.create_subprocess_exec(*command)
            try:
                yield Running(port, relay, results, process)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def test_the_rate_follows_the_link_down_and_up_and_every_image_is_answered(tmp_path: Path) -> None:
    options = ("--rate-control", "auto", "--max-age", "2s", "--rate-scale", "2")
    async with running(tmp_path, 64e3, *options) as sensor:
        await sensor.until_rate(at_least=8.0)
        sensor.relay.up_bits_per_s = 1500.0
        await sensor.until_rate(at_most=0.5)
        sensor.relay.up_bits_per_s = 64e3
        await sensor.until_rate(at_least=8.0)
        rows = await sensor.stop()
    scales = [row["rate_scale"] for row in rows]
    assert scales.index(8.0) < scales.index(0.5) < len(scales) - scales[::-1].index(8.0), "down, and up again"


async def test_a_budget_is_kept_and_lifted_and_a_rate_by_hand_ends_automatic_control(tmp_path: Path) -> None:
    async with running(tmp_path, 1e6, "--rate-scale", "8") as sensor:
        await sensor.until_rate(at_least=8.0)
        assert await ctl(sensor.port, "rate", "budget", "mast", "3kbit/s") == "mast: budget 3000 bit/s\n"
        await sensor.until_rate(at_most=2.0)
        start_s = time.monotonic()
        await asyncio.sleep(4)
        end_s = time.monotonic()
        bits = 8 * (sensor.relay.up_bytes_at(end_s) - sensor.relay.up_bytes_at(start_s))
        assert bits <= 3000 * (end_s - start_s + BURST_S) + MESSAGE_BITS
        info = await sensor.info()
        assert info is not None
        assert info.rate.control == RateControl(False, 2.0, 3000.0)
        with pytest.raises(CommandRefusedError, match="0.1 to 3600 s"):
            await sensor.ask(lambda client: client.set_automatic("mast", True, 0.01))
        assert await sensor.ask(lambda client: client.set_budget("mast", None)) == RateControl()
        assert await sensor.ask(lambda client: client.set_automatic("mast", True, 1.5)) == RateControl(True, 1.5)
        said = await ctl(sensor.port, "rate", "set", "mast", "1.5")
        assert "no longer turns its knob by itself (before: automatic, images at most 1.5 s old)" in said
        info = await sensor.info()
        assert info is not None
        assert (info.rate.rate_scale, info.rate.control.by_itself) == (1.5, False)
        rows = await sensor.stop()
    assert rows[-1]["rate_scale"] == 1.5, "and there it stays"
    assert rows[-1]["images_per_message"] <= 16, "the coder's own rule holds again"


async def test_what_waits_in_the_spool_is_taken_for_no_more_than_it_costs_the_link(tmp_path: Path) -> None:
    options = ("--rate-control", "auto", "--max-age", "2s", "--spool", str(tmp_path / "spool.db"))
    async with running(tmp_path, 1e6, *options) as sensor:
        await sensor.until_rate(at_least=8.0)
        await asyncio.sleep(2)
        rows = await sensor.stop()
    last = [row for row in rows if row["rate_scale"] == 8.0]
    assert len(last) > 100
    assert np.median([row["latency_ms"] for row in last]) < 800, "messages do not wait for pages of a disk to cross"

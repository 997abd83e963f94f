"""A sensor process with a spool: stopped without a link, started again; a link that goes silent."""

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

import pytest
from sensor_rig import check_answered_once, make_world, rows_of, sensor_config, serving

from benchmarks.faulty_link import FaultyLink
from edge_sensor import run_sensor
from edge_sensor.sources import SourceOptions


@pytest.fixture
def world(tmp_path: Path) -> Path:
    make_world(tmp_path)
    return tmp_path


async def sensor(world: Path, port: int, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentwire", "--log-level", "info", "sensor", "--server", f"127.0.0.1:{port}"),
        *("--bundle", str(world / "bundle"), "--source", str(world / "images"), "--name", "mast"),
        *("--results", str(world / "r.jsonl"), "--spool", str(world / "s.db"), "--max-backoff-s", "0.3", *options),
        stderr=asyncio.subprocess.PIPE,
    )


async def stopped(process: asyncio.subprocess.Process) -> str:
    process.send_signal(signal.SIGTERM)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return err.decode()


async def test_a_sensor_that_is_stopped_without_a_link_goes_on_where_it_was(world: Path) -> None:
    results = world / "r.jsonl"
    async with serving(world) as port, FaultyLink(port) as link:
        process = await sensor(world, link.port, "--limit", "100000000")
        while not (results.exists() and len(results.read_bytes()) > 10_000):
            await asyncio.sleep(0.02)
        cut = asyncio.create_task(link.cut(3600))
        size = -1
        while results.stat().st_size != size:  # until what was on its way is written
            size = results.stat().st_size
            await asyncio.sleep(0.3)
        log = await stopped(process)
        assert "stopping" in log
        rows = rows_of(results)
        assert all("label" in row for row in rows), "nothing is dropped: it is in the spool"
        cut.cancel()
    async with serving(world) as port:
        process = await sensor(world, port, "--limit", str(len(rows) + 1000))
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        assert " 0 images to be sent" not in err.decode().split("spool", 1)[1].splitlines()[0]
    answered = check_answered_once(results, len(rows) + 1000)
    around = 60
    first = [row["item"] for row in answered[:around]]
    assert [row["item"] for row in answered] == [first[row["sequence"] % around] for row in answered], "the same order"


async def test_a_link_that_goes_silent_is_noticed_and_made_again(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Twice the keepalive time is what it may take; a busy machine gets some more."""
    caplog.set_level(logging.WARNING, "latentwire.sensor")
    async with serving(world) as port, FaultyLink(port) as link:
        config = sensor_config(
            world, world / "r.jsonl", link.port, keepalive_s=1.0, source_options=SourceOptions(fps=50), limit=300
        )
        running = asyncio.create_task(asyncio.to_thread(run_sensor, config))
        while not rows_of(world / "r.jsonl") if (world / "r.jsonl").exists() else True:
            await asyncio.sleep(0.02)
        silent = asyncio.create_task(link.silence(30))
        begun_s = time.monotonic()
        while "no link to" not in caplog.text:
            assert time.monotonic() - begun_s < 15, "a link that is dead was believed alive"
            await asyncio.sleep(0.02)
        silent.cancel()
        report = await asyncio.wait_for(running, 60)
    assert report.reconnects >= 1
    check_answered_once(world / "r.jsonl", 300)

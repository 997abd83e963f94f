"""SIGTERM under load, with real processes: sensors go on at a second server, and every image is answered once."""

import asyncio
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sensor_rig import make_world, rows_of

Process = asyncio.subprocess.Process
NAMES = ("cam-1", "cam-2")


@asynccontextmanager
async def latentwire(*arguments: object) -> AsyncIterator[Process]:
    """A ``latentwire`` process, killed if it is left running."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentwire", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def serving(world: Path, results: Path) -> AsyncIterator[tuple[Process, str]]:
    """A server process, and its address."""
    options = ("--listen", "127.0.0.1:0", "--threads", 1, "--grace-s", 30, "--results", results)
    async with latentwire("server", "--bundle", world / "bundle", *options) as process:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        yield process, said.split()[-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


async def end(process: Process) -> str:
    """SIGTERM, which must end it well; returns what stood on its standard error."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        _, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert b"Traceback" not in stderr
    return stderr.decode()


def answered(results: Path) -> Counter[str]:
    """Images that a server answered, by sensor."""
    return Counter(name for name, _ in sqlite3.connect(results).execute("SELECT sensor, sequence FROM results"))


async def test_sensors_of_a_server_that_is_stopped_go_on_at_another(tmp_path: Path) -> None:
    make_world(tmp_path)
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    async with AsyncExitStack() as stack:
        first, first_address = await stack.enter_async_context(serving(tmp_path, a))
        second, second_address = await stack.enter_async_context(serving(tmp_path, b))
        settings = ("--bundle", tmp_path / "bundle", "--server", f"{first_address},{second_address}")
        settings += ("--source", tmp_path / "images", "--limit", 10**9, "--images-per-message", 4)
        settings += ("--run-dir", tmp_path, "--grace-s", 30, "--no-progress")
        sensors = [
            await stack.enter_async_context(
                latentwire("sensor", *settings, "--name", name, "--results", tmp_path / f"{name}.jsonl")
            )
            for name in NAMES
        ]
        await until(lambda: (answered(a) + answered(b)).keys() == set(NAMES))
        stopped, other, moved_to = (first, second, b) if answered(a) else (second, first, a)
        there = set(NAMES) - answered(moved_to).keys()
        await end(stopped)
        before = answered(moved_to)
        await until(lambda: all(answered(moved_to)[name] > before[name] for name in NAMES))
        said = [await end(sensor) for sensor in sensors]
        await end(other)
    for name, stderr in zip(NAMES, said, strict=True):
        assert ("the server is going away" in stderr) == (name in there), stderr
        rows = [row for row in rows_of(tmp_path / f"{name}.jsonl") if "sequence" in row]
        assert sorted(row["sequence"] for row in rows) == list(range(len(rows)))
        assert all(row["label"] == row["truth"] for row in rows)
        assert len(rows) == answered(a)[name] + answered(b)[name]  # what one server answered, the other did not

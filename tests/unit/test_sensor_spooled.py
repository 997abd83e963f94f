"""A sensor with a spool against a scripted server: what it waits for, what it keeps, what it drops."""

import asyncio
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from sensor_server import FakeServer, FakeStream, Runner, honest, sent_batches, serving
from spooling import NOW

import edge_sensor.run
from edge_sensor.sources import Frame
from edge_sensor.spool_backlog import DISK_FULL, SPOOL_FULL
from edge_sensor.spool_file import SpoolSettings, open_spool
from latentwire import errors
from latentwire import messages as m
from latentwire.v1.stream_pb2_grpc import add_SensorsServicer_to_server


@pytest.fixture
def runner(made: Path, tmp_path: Path) -> Runner:
    runner = Runner(made, tmp_path)
    runner.config = replace(runner.config, spool=tmp_path / "s.db", spool_commit_s=0.01)
    return runner


def left_in(runner: Runner) -> int:
    """Images in the spool."""
    assert runner.config.spool is not None
    spool, damaged = open_spool(SpoolSettings(Path(runner.config.spool), 1 << 20, "oldest", "normal"), NOW)
    assert not damaged
    images = spool.waiting.images + sum(message.batch.images for message in spool.sent())
    spool.close()
    return images


class Camera:
    """A live source of so many frames at once, which then waits to be ended."""

    live = True
    description = "a camera"

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.frames):
            image = np.full((8, 8, 1), number % 251, np.uint8)
            yield Frame(f"frame {number}", image, None, time.monotonic())
            time.sleep(0.0005)


def point_at(monkeypatch: pytest.MonkeyPatch, camera: Camera) -> None:
    monkeypatch.setattr(edge_sensor.run, "open_source", lambda *_: camera)


async def test_every_image_is_sent_and_answered_once_and_nothing_is_left(runner: Runner) -> None:
    async with serving() as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert (report.images_sent, report.images_answered, report.dropped) == (100, 100, {})
    assert [batch.first_sequence for batch in fake.streams[0].batches] == list(range(0, 100, 8))
    assert left_in(runner) == 0


async def test_the_next_run_goes_on_with_the_numbers_in_the_same_file(runner: Runner) -> None:
    async with serving() as (fake, server):
        await runner.run(server)
        await runner.run(server, limit=50)
    runner.answered_once(150)
    assert fake.streams[1].hello.next_sequence == 100
    assert fake.streams[0].hello.session != fake.streams[1].hello.session


async def test_a_first_server_is_waited_for_as_long_as_it_takes(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = asyncio.create_task(runner.run(f"127.0.0.1:{port}", connect_timeout_s=0.1))
    await asyncio.sleep(1.0)
    assert not running.done()
    fake, late = FakeServer(), grpc.aio.server()
    add_SensorsServicer_to_server(fake, late)
    late.add_insecure_port(f"127.0.0.1:{port}")
    await late.start()
    report = await running
    await late.stop(0)
    assert report.images_answered == 100


async def test_a_server_of_another_version_ends_the_sensor_and_the_spool_is_kept(runner: Runner) -> None:
    async def cut_later(stream: FakeStream) -> None:
        await stream.greet()
        for _ in range(3):
            await stream.batch()
        await stream.cut()

    async def newer(stream: FakeStream) -> None:
        await stream.refuse(grpc.StatusCode.UNIMPLEMENTED, "ProtocolVersionError: the server speaks version 2")

    async with serving(cut_later, newer) as (_, server):
        with pytest.raises(errors.ProtocolVersionError, match="speaks version 2"):
            await runner.run(server)
    assert left_in(runner) >= 24
    async with serving() as (fake, server):
        await runner.run(server)
    runner.answered_once(100)
    assert fake.streams[0].hello.next_sequence == 0


async def test_a_server_that_knows_more_than_was_sent_is_met_in_another_session(runner: Runner) -> None:
    async def remembers_another(stream: FakeStream) -> None:
        await stream.greet(next_sequence=5000)
        await stream.answer_all()

    async with serving(remembers_another, honest) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert fake.streams[0].hello.session != fake.streams[1].hello.session
    assert report.images_answered == 100


async def test_a_server_that_never_agrees_ends_the_sensor(runner: Runner) -> None:
    async def remembers_another(stream: FakeStream) -> None:
        await stream.greet(next_sequence=5000)
        await stream.answer_all()

    async with serving(remembers_another) as (fake, server):
        with pytest.raises(errors.SequenceError):
            await runner.run(server)
    assert len(fake.streams) == 2


@pytest.mark.parametrize("full", ["oldest", "newest"])
async def test_a_live_source_without_a_link_fills_the_spool_and_then_drops_by_the_setting(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """4,000 frames, a spool with room for some, and a server that comes when all are coded."""
    point_at(monkeypatch, Camera(4000))
    settings = {"limit": None, "spool_bytes": 64 << 10, "spool_full": full, "results": runner.results}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = asyncio.create_task(runner.run(f"127.0.0.1:{port}", **settings))
    deadline_s = time.monotonic() + 60
    while runner.results.exists() is False or SPOOL_FULL not in runner.results.read_text():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    fake, late = FakeServer(), grpc.aio.server()
    add_SensorsServicer_to_server(fake, late)
    late.add_insecure_port(f"127.0.0.1:{port}")
    await late.start()
    report = await running
    await late.stop(0)
    dropped = Counter(report.dropped)
    assert report.images_answered + dropped.total() == 4000, "each is answered or counted"
    assert dropped[SPOOL_FULL] > 100
    assert set(dropped) <= {SPOOL_FULL, "behind"}
    rows = runner.rows()
    assert Counter(row["item"] for row in rows) == dict.fromkeys((f"frame {n}" for n in range(4000)), 1)
    assert sorted(row["sequence"] for row in rows if "label" in row) == list(range(report.images_answered))
    lost = [int(row["item"].split()[1]) for row in rows if row.get("dropped") == SPOOL_FULL]
    kept = [int(row["item"].split()[1]) for row in rows if "label" in row]
    # what waited longest went first, or what came last
    assert (np.median(lost) < np.median(kept)) == (full == "oldest")
    assert dict(m.DropReport(report.dropped).dropped) == dict(sent_reports(fake)[-1].dropped)
    assert left_in(runner) == 0


def sent_reports(fake: FakeServer) -> list[m.DropReport]:
    return [message for stream in fake.streams for message in stream.got if isinstance(message, m.DropReport)]


async def test_when_the_spools_disk_is_full_capture_goes_on_and_drops_are_counted(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turn = edge_sensor.spool_backlog.Spool.turn
    full = True

    def turned(self: object, new: list, *rest: object) -> object:
        if full and new:
            raise errors.DiskFullError("there is no room on the spool's disk; free some")
        time.sleep(0.2 if new else 0)  # what is coded meanwhile may push out only what is not being committed
        return turn(self, new, *rest)

    monkeypatch.setattr(edge_sensor.spool_backlog.Spool, "turn", turned)
    monkeypatch.setattr(edge_sensor.spool_backlog, "_RETRY_S", 0.05)
    camera = Camera(2000)
    point_at(monkeypatch, camera)
    async with serving() as (_, server):
        running = asyncio.create_task(runner.run(server, limit=None, images_per_message=8))
        while not runner.results.exists() or DISK_FULL not in runner.results.read_text():
            await asyncio.sleep(0.02)
        full = False
        report = await running
    dropped = Counter(report.dropped)
    assert dropped[DISK_FULL] > 0
    assert report.images_answered > 0
    assert report.images_answered + dropped.total() == 2000
    said = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert len(said) == 1, "once, not at every try"


async def test_results_wait_for_room_on_their_disk_and_none_is_lost(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, refused = os.write, 0

    def sometimes(fd: int, data: bytes) -> int:
        nonlocal refused
        if bytes(data[:13]) == b'{"sequence": ' and refused < 6:
            refused += 1
            if refused % 2:
                return write(fd, data[:20])  # a part of it went
            raise OSError(errno.ENOSPC, "No space left on device")
        if bytes(data[:1]) != b"{" and 0 < refused < 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr("edge_sensor.results._RETRY_S", 0.01)
    monkeypatch.setattr("edge_sensor.results.os.write", sometimes)
    async with serving() as (_, server):
        await runner.run(server)
    assert refused == 6
    runner.answered_once(100)
    assert "waiting until there is room" in caplog.text


async def test_latency_holds_while_the_wall_clock_jumps(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: clock() + (next(jumps) % 3 - 1) * 1e8)
    async with serving() as (_, server):
        report = await runner.run(server)
    assert report.latency_p99_ms is not None and 0 < report.latency_p99_ms < 60_000
    assert all(0 < row["latency_ms"] < 60_000 for row in runner.rows())


async def test_messages_are_sent_again_as_they_were_over_cut_links(runner: Runner) -> None:
    async def cut_after_three(stream: FakeStream) -> None:
        await stream.greet()
        for _ in range(3):
            batch = await stream.batch()
            assert batch is not None
        await stream.cut()

    async with serving(cut_after_three, cut_after_three, honest) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert set(sent_batches(fake)) == set(range(0, 100, 8))
    assert report.reconnects == 2


async def test_with_full_sync_results_are_on_the_disk_before_their_messages_are_removed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    fsync, turn = os.fsync, edge_sensor.spool_backlog.Spool.turn

    def turned(self: object, new: list, answered: int, *rest: object) -> object:
        did.append(f"removed to {answered}")
        return turn(self, new, answered, *rest)

    monkeypatch.setattr("edge_sensor.results.os.fsync", lambda fd: did.append("synced") or fsync(fd))
    monkeypatch.setattr(edge_sensor.spool_backlog.Spool, "turn", turned)
    async with serving() as (_, server):
        await runner.run(server, spool_sync="full")
    assert did[-2:] == ["synced", "removed to 100"]

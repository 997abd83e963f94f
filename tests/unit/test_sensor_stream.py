"""The sensor against a scripted server: links that break, answers that repeat, servers that are not there."""

import asyncio
import socket
import time
from pathlib import Path

import grpc
import pytest
from sensor_server import IMAGES, FakeServer, FakeStream, Runner, honest, sent_batches, serving

from latentwire import messages as m
from latentwire.errors import ServerUnavailableError
from latentwire.v1.stream_pb2_grpc import add_SensorsServicer_to_server


@pytest.fixture
def runner(made: Path, tmp_path: Path) -> Runner:
    return Runner(made, tmp_path)


async def test_every_image_is_sent_and_answered_once(runner: Runner) -> None:
    async with serving() as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    (stream,) = fake.streams
    assert (stream.hello.sensor, stream.hello.next_sequence) == ("mast", 0)
    assert [point.id for point in stream.hello.operating_points] == [1]
    assert [batch.images for batch in stream.batches] == [8] * 12 + [4]
    assert (report.images_sent, report.images_answered, report.reconnects) == (100, 100, 0)
    assert report.dropped == {}
    assert report.images_with_truth == 100
    assert {row["message"] for row in runner.rows()} == set(range(0, 100, 8))
    assert all(row["sent_s"] >= row["captured_s"] for row in runner.rows())


async def test_without_a_limit_a_recorded_source_is_read_once(runner: Runner) -> None:
    async with serving() as (_, server):
        report = await runner.run(server, limit=None)
    runner.answered_once(IMAGES)
    assert report.images_answered == IMAGES


async def test_a_cut_link_is_made_again_and_nothing_is_lost(runner: Runner) -> None:
    async def cut_after_two(stream: FakeStream) -> None:
        await stream.greet()
        for _ in range(2):
            batch = await stream.batch()
            assert batch is not None
            await stream.answer(batch)
        for _ in range(3):
            await stream.batch()
        await stream.cut()

    async with serving(cut_after_two, cut_after_two, honest) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert report.reconnects == 2
    assert len(fake.streams) == 3
    assert len({stream.hello.session for stream in fake.streams}) == 1
    assert set(sent_batches(fake)) == set(range(0, 100, 8))
    resumed = fake.streams[1]
    assert resumed.hello.next_sequence == resumed.batches[0].first_sequence == 16


async def test_a_server_that_has_answered_more_is_not_sent_that_again(runner: Runner) -> None:
    kept: list[m.LatentBatch] = []

    async def answer_into_the_void(stream: FakeStream) -> None:
        await stream.greet()
        for _ in range(4):
            batch = await stream.batch()
            assert batch is not None
            kept.append(batch)
        await stream.cut()

    async def answer_late(stream: FakeStream) -> None:
        assert stream.hello.next_sequence == 0
        await stream.greet(next_sequence=32)
        for batch in kept:
            await stream.answer(batch)
            await stream.answer(batch)
        await stream.answer_all()

    async with serving(answer_into_the_void, answer_late) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert fake.streams[1].batches[0].first_sequence == 32
    assert report.duplicates == 32


async def test_a_server_that_is_not_there_is_given_up_in_time(runner: Runner) -> None:
    started_s = time.monotonic()
    with pytest.raises(ServerUnavailableError, match=r"no server answers at 127.0.0.1:1 .*start one there"):
        await runner.run("127.0.0.1:1", connect_timeout_s=0.5)
    assert 0.4 < time.monotonic() - started_s < 4


async def test_a_port_that_takes_and_never_answers_is_given_up_in_time(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServerUnavailableError):
        await runner.run(f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.5)


async def test_a_server_that_never_welcomes_is_given_up_in_time(runner: Runner) -> None:
    async def mute(stream: FakeStream) -> None:
        await stream.read()

    async with serving(mute) as (_, server):
        with pytest.raises(ServerUnavailableError, match="no answer in time"):
            await runner.run(server, connect_timeout_s=0.5)


async def test_a_server_that_comes_later_is_found(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = asyncio.create_task(runner.run(f"127.0.0.1:{port}"))
    await asyncio.sleep(0.5)
    fake, late = FakeServer(), grpc.aio.server()
    add_SensorsServicer_to_server(fake, late)
    late.add_insecure_port(f"127.0.0.1:{port}")
    await late.start()
    report = await running
    await late.stop(0)
    assert report.images_answered == 100


async def test_the_servers_limits_are_kept(runner: Runner) -> None:
    async def narrow(stream: FakeStream) -> None:
        await stream.greet(limits=m.Limits(max_images_per_message=3, max_unanswered_images=7))
        waiting: list[m.LatentBatch] = []
        while True:
            try:
                async with asyncio.timeout(0.2):
                    batch = await asyncio.shield(pending := asyncio.ensure_future(stream.batch()))
            except TimeoutError:  # the sensor waits: its window is full, or it is done
                assert waiting
                for known in waiting:
                    await stream.answer(known)
                waiting = []
                batch = await pending
            if batch is None:
                break
            assert batch.images <= 3
            waiting.append(batch)
            assert sum(known.images for known in waiting) <= 7
            if batch.first_sequence + batch.images == 20:
                for known in waiting:
                    await stream.answer(known)
                waiting = []

    async with serving(narrow) as (_, server):
        report = await runner.run(server, limit=20)
    runner.answered_once(20)
    assert report.images_answered == 20


async def test_a_drain_is_obeyed(runner: Runner) -> None:
    async def go_away(stream: FakeStream) -> None:
        await stream.greet()
        taken = [await stream.batch() for _ in range(3)]
        await stream.send(m.Drain("maintenance"))
        await asyncio.sleep(0.1)
        for batch in taken:
            assert batch is not None
            await stream.answer(batch)
        await stream.answer_all()  # ends when the sensor closes its half

    async with serving(go_away, honest) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert report.reconnects == 1
    drained, after = fake.streams
    ends = [batch.first_sequence + batch.images for batch in drained.batches]
    assert after.batches[0].first_sequence == ends[-1], "all that was sent before was answered there"
    assert sum(batch.images for stream in fake.streams for batch in stream.batches) == 100

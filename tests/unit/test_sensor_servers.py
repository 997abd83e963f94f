"""Several servers that will do: which one a sensor goes to, and when it moves."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from sensor_server import FakeStream, Runner, honest, serving

from edge_sensor.channel import Dialer, Servers
from latentwire import messages as m
from latentwire.errors import ServerUnavailableError
from latentwire.tls import Access
from latentwire.v1 import stream_pb2 as pb
from latentwire.v1 import stream_pb2_grpc


@pytest.fixture
def runner(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr("random.randrange", lambda stop: 0)  # begins at the first
    return Runner(made, tmp_path)


async def answer_one(stream: FakeStream) -> None:
    batch = await stream.batch()
    assert batch is not None
    await stream.answer(batch)


async def drain_after_two(stream: FakeStream) -> None:
    await stream.greet()
    for _ in range(2):
        await answer_one(stream)
    await stream.send(m.Drain("shutting down"))
    await stream.answer_all()


async def cut_after_one(stream: FakeStream) -> None:
    await stream.greet()
    await answer_one(stream)
    await stream.cut()


async def test_one_that_says_goodbye_is_left_for_the_next(runner: Runner) -> None:
    async with serving(drain_after_two) as (left, one), serving(honest) as (found, two):
        await runner.run(f"{one},{two}")
    runner.answered_once(100)
    assert (len(left.streams), len(found.streams)) == (1, 1)
    moved = found.streams[0].hello
    assert moved.session == left.streams[0].hello.session
    assert moved.next_sequence == found.streams[0].batches[0].first_sequence >= 16


async def test_one_that_was_cut_off_is_gone_back_to(runner: Runner) -> None:
    async with serving(cut_after_one, honest) as (back, one), serving(honest) as (other, two):
        await runner.run(f"{one},{two}")
    runner.answered_once(100)
    assert (len(back.streams), len(other.streams)) == (2, 0)


async def full(stream: FakeStream) -> None:
    await stream.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "ServerFullError: 2 streams and calls are open: come again")


async def test_one_that_is_full_is_left_for_the_next_or_come_back_to(runner: Runner) -> None:
    async with serving(full, honest) as (_, one), serving(full, honest) as (_, two):
        await runner.run(f"{one},{two}")
        runner.answered_once(100)
        await runner.run(two)


async def test_one_that_is_not_there_or_silent_leaves_its_turn(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as gone:
        silent, dead = (f"127.0.0.1:{s.getsockname()[1]}" for s in (mute, gone))
        gone.close()
        async with serving(honest) as (_, there):
            await runner.run(f"{dead},{silent},{there}", connect_timeout_s=3.0)
        runner.answered_once(100)
        with pytest.raises(ServerUnavailableError, match="no server answers at"):
            await runner.run(f"{dead},{dead}", connect_timeout_s=0.3)


class Named(stream_pb2_grpc.SensorsServicer):
    """Says which server it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def Stream(
        self, request_iterator: AsyncIterator[pb.SensorMessage], context: grpc.aio.ServicerContext
    ) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, self.name)


async def test_of_a_names_addresses_any_will_do() -> None:
    servers = [grpc.aio.server() for _ in range(3)]
    for name, server in zip("abc", servers, strict=True):
        stream_pb2_grpc.add_SensorsServicer_to_server(Named(name), server)
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server in servers:
        await server.start()
    dialer = Dialer(Servers(["ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)]), Access())
    found = set()
    async with asyncio.timeout(60):
        while found != set("abc"):  # each attempt draws anew
            async with await dialer.open() as channel:
                found.add(await stream_pb2_grpc.SensorsStub(channel).Stream().details())
    for server in servers:
        await server.stop(0)

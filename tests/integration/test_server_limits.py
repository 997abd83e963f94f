"""What one peer may take of a server: over it a named refusal, and nobody else waits for it."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import factories
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_sensor import RawSensor, serving

import edge_server.server
from edge_server.connection import ANNOUNCEMENTS_AT_ONCE, ANNOUNCEMENTS_PER_S
from edge_server.open_calls import MAX_OF_A_SENSOR, OpenCalls
from edge_server.pipeline import Job
from latentwire.bundle import Bundle
from latentwire.errors import ServerFullError
from latentwire.identity import Identity


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"max_streams": 2}, "2 streams and calls are open, as many"), ({"max_streams_a_peer": 2}, "you have 2 streams")],
)
async def test_too_many_streams(bundle: Bundle, settings: dict[str, int], says: str) -> None:
    async with (
        serving(bundle.path, **settings) as (_, address),
        RawSensor(address, bundle, "a") as a,
        RawSensor(address, bundle, "b") as b,
    ):
        await a.join()
        await b.join()
        async with RawSensor(address, bundle, "c") as c:
            code, details = await c.refusal()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details.startswith(f"ServerFullError: {says}")
        async with grpc.aio.insecure_channel(address) as channel:  # a full server is well
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await a.send(a.batch(0, 4))
        await a.hear_results(0, 4)
        await b.close()
        assert await b.hear() is None
        async with RawSensor(address, bundle, "c") as c:
            await c.join()


def test_an_identity_is_one_peer_wherever_it_calls_from() -> None:
    calls = OpenCalls(most=100, most_a_peer=50)
    cam, alice = Identity("sensor", "cam-1"), Identity("admin", "alice")
    mine = [calls.one_more(f"ipv4:10.0.0.{n}:1", cam) for n in range(MAX_OF_A_SENSOR)]
    with pytest.raises(ServerFullError, match="you have 16"):
        calls.one_more("ipv4:10.0.0.99:1", cam)
    mine.pop().close()
    mine.append(calls.one_more("ipv4:10.0.0.99:1", cam))
    others = [calls.one_more("ipv4:10.0.0.1:1", alice) for _ in range(50)]
    others += [calls.one_more(f"ipv6:%5B::{n}%5D:1", None) for n in range(34)]
    with pytest.raises(ServerFullError, match="100 streams"):
        calls.one_more("ipv4:10.0.0.200:1", None)
    for call in (*mine, *others):
        call.close()
    calls.one_more("ipv4:10.0.0.200:1", None).close()


async def test_a_stream_that_sends_all_it_can_and_reads_nothing_delays_no_other(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, order = edge_server.server.answer_jobs, []  # of what was worked on: first sequence, images

    def slow(jobs: Sequence[Job]) -> object:
        order.extend((job.batch.first_sequence, job.batch.images) for job in jobs)
        time.sleep(0.02)
        return answer(jobs)

    monkeypatch.setattr(edge_server.server, "answer_jobs", slow)
    async with (
        serving(bundle.path, workers=1, max_batch_images=8) as (_, address),
        RawSensor(address, bundle, "greedy") as greedy,
        RawSensor(address, bundle, "modest") as modest,
    ):
        await greedy.join()
        await modest.join()
        await greedy.send(*[greedy.batch(first, 8) for first in range(0, 640, 8)])  # 1.6 seconds of work
        for first in range(5):
            before = len(order)
            await modest.send(modest.batch(first, 1))
            await modest.hear_results(first, 1)
            assert order.index((first, 1)) - before <= 3  # two messages that may wait, one that came meanwhile
        assert len(order) < 60  # the greedy one had much left


async def test_a_stream_that_changes_its_operating_point_all_the_time_is_slowed(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        points = [sensor.announcement(1.0 + n / 100) for n in range(ANNOUNCEMENTS_AT_ONCE + 6)]
        started = time.monotonic()
        await sensor.send(*points, sensor.batch(0, 4))
        await sensor.hear_results(0, 4)
        assert time.monotonic() - started >= 5 / ANNOUNCEMENTS_PER_S


async def test_settings_of_no_stream_at_all_are_refused(tmp_path: Path) -> None:
    for name in ("max_streams", "max_streams_a_peer"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            edge_server.ServerConfig(tmp_path, **{name: 0})  # type: ignore[arg-type]


async def test_streams_that_replace_one_another_while_they_are_written_to_all_end(bundle: Bundle) -> None:
    """A status that is sent while a message is on its way is not sent: such a stream stayed open for ever."""

    async def one() -> grpc.StatusCode:
        async with RawSensor(address, bundle) as sensor:
            await sensor.send(sensor.hello())
            await sensor.close()
            return (await sensor.refusal())[0]

    async with serving(bundle.path) as (_, address):
        for _ in range(3):
            async with asyncio.timeout(60):
                codes = await asyncio.gather(*(one() for _ in range(6)))
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}

"""How a server ends: sensors are told, what was accepted is answered, the process exits 0."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import factories
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_sensor import RawSensor, serving

from latentwire import messages as m
from latentwire.bundle import Bundle

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import sys
from edge_server import ServerConfig, run_server_blocking
run_server_blocking(ServerConfig(sys.argv[1], listen="127.0.0.1:0", decoder_threads=1, grace_s=float(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@asynccontextmanager
async def server_process(bundle: Bundle, grace_s: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server in a process of its own, and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(bundle.path), str(grace_s),
        cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on 127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """The exit status and what stood on stderr."""
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


async def test_sigterm_under_load_answers_all_and_exits_0(bundle: Bundle) -> None:
    async with server_process(bundle, grace_s=20) as (process, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        for first in range(0, 2000, 10):
            await sensor.send(sensor.batch(first, 10))
        await sensor.hear_results(0, 10)
        process.send_signal(signal.SIGTERM)
        drained = False
        answered = 10
        while answered < 2000:
            message = await sensor.hear()
            if isinstance(message, m.Drain):
                assert not drained and message.reason == "shutting down"
                drained = True
            else:
                assert isinstance(message, m.Results) and message.first_sequence == answered
                answered += len(message.labels)
        await sensor.close()
        last = await sensor.hear()  # the notice may come after the last result
        assert drained ^ isinstance(last, m.Drain)
        status, stderr = await ended(process)
        assert status == 0, stderr
        config, *_, last_line = stderr.splitlines()
        assert "INFO latentwire.server config version=" in config and f"bundle={bundle.path}" in config
        assert last_line.endswith("latentwire.server stopped")
        assert "Traceback" not in stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_idle_server_ends_at_once(bundle: Bundle, number: signal.Signals) -> None:
    async with server_process(bundle, grace_s=3600) as (process, _):
        process.send_signal(number)
        status, stderr = await ended(process)
        assert status == 0, stderr
        assert "Traceback" not in stderr


async def test_a_sensor_that_stays_is_ended_after_the_grace(bundle: Bundle) -> None:
    async with serving(bundle.path) as (server, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(sensor.batch(0, 4))
        await sensor.hear_results(0, 4)
        stopping = asyncio.create_task(server.stop(grace_s=0.3))
        assert await sensor.hear() == m.Drain("shutting down")
        await sensor.send(sensor.batch(4, 4))  # sent before it read the notice, say
        await sensor.hear_results(4, 4)
        code, details = await sensor.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details == "ServerUnavailableError: the server is going away: shutting down; reconnect"
        await stopping


async def test_while_draining_new_streams_are_sent_away_and_health_says_so(bundle: Bundle) -> None:
    async with (
        serving(bundle.path) as (server, address),
        RawSensor(address, bundle, "old") as old,
        RawSensor(address, bundle, "new") as new,
        grpc.aio.insecure_channel(address) as channel,
    ):
        await old.join()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING  # type: ignore[union-attr]
        stopping = asyncio.create_task(server.stop(grace_s=5))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING  # type: ignore[union-attr]
        await new.send(new.hello())
        assert (await new.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert isinstance(await old.hear(), m.Drain)
        await old.close()
        assert await old.hear() is None
        watch.cancel()
        async with asyncio.timeout(4):  # not the whole grace: nobody is left
            await stopping

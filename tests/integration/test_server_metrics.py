"""What a server counts, as Prometheus reads it; and health that tells the truth."""

import asyncio
import re
import socket
from pathlib import Path

import factories
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_sensor import RawSensor, serving
from scraped import scraped

from edge_server.decoder import Decoder
from edge_server.pipeline import Pipeline
from edge_server.result_sink import ResultSink
from edge_server.totals import MAX_CLASSES, OTHER, ClassTotals, Totals
from latentwire import messages as m
from latentwire.bundle import Bundle
from latentwire.control_client import ControlClient
from latentwire.errors import CommandRefusedError, InferenceError, ListenError, UnknownSensorError

KIND = "{bundle=quadrants,model=gaussian,variant=full}"
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


def read(port: int | None) -> dict[str, float]:
    return scraped(port, "latentwire_server_")


async def test_what_streams_and_control_did_is_counted(bundle: Bundle, tmp_path: Path) -> None:
    async with serving(bundle.path, metrics="0", results=tmp_path / "r.jsonl") as (server, address):
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            batch = sensor.batch(0, 8)
            await sensor.send(batch, sensor.batch(8, 4))
            await sensor.hear_results(0, 8)
            await sensor.hear_results(8, 4)
            torn = sensor.batch(12, 3)
            await sensor.send(batch, m.LatentBatch(12, 3, torn.operating_point, torn.payload, torn.crc32 ^ 1))
            await sensor.hear_results(0, 8)
            assert isinstance(await sensor.hear(), m.BatchRefused)
            found = await asyncio.to_thread(read, server.metrics_port)
            assert found[f"streams{KIND}"] == 1
            await sensor.send(m.LatentBatch(99, 1, torn.operating_point, b"", 0))
            await sensor.refusal()
            await asyncio.to_thread(act, address)
        found = await asyncio.to_thread(read, server.metrics_port)
        text = await asyncio.to_thread(DOCS.read_text)
    assert f"streams{KIND}" not in found
    wanted = {
        f"messages_answered_total{KIND}": 2,
        f"images_answered_total{KIND}": 12,
        f"images_refined_total{KIND}": 12,
        "images_refused_total{reason=ChecksumError}": 3,
        "images_known_total": 8,
        "streams_opened_total": 1,
        "streams_ended_total{reason=SequenceError}": 1,
        "control_actions_total{action=SetRate,result=UnknownSensorError}": 1,
        "control_actions_total{action=SetBudget,result=CommandRefusedError}": 1,
        "batch_images_sum": 15,
        "message_seconds_count": 3,
        "sessions": 1,
        "queued_images": 0,
        "results_backlog_images": 0,
        "results_stuck": 0,
        "ready": 1,
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert found[f"payload_bytes_total{KIND}"] >= len(batch.payload)
    assert 2 <= found["decode_seconds_count"] == found["batch_images_count"] <= 3
    assert found["decode_seconds_bucket{le=+Inf}"] == found["decode_seconds_count"]
    names = {re.sub(r"(_count|_sum|_bucket)?(\{.*)?$", "", key) for key in found}
    assert {name for name in names if f"`{name}" not in text} == set()


def act(address: str) -> None:
    with ControlClient(address, timeout_s=5) as control:
        with pytest.raises(UnknownSensorError):
            control.set_rate("nobody", 1.0, 5)
        with pytest.raises(CommandRefusedError):
            control.set_budget("cam", 100.0)


async def test_metrics_at_a_port_that_is_taken(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError, match="give another --metrics"):
        async with serving(bundle.path, metrics=str(taken.getsockname()[1])):
            pass


async def test_a_disk_or_a_decoder_that_fails_is_not_ready(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(bundle.path, results=tmp_path / "r.jsonl") as (server, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        status = health_pb2.HealthCheckResponse

        async def says() -> int:
            async with asyncio.timeout(20):
                answer = await watch.read()
            assert isinstance(answer, status)
            return answer.status

        assert await says() == status.SERVING
        sink = server._sink
        assert isinstance(sink, ResultSink)
        sink.stuck = True
        assert await says() == status.NOT_SERVING
        sink.stuck = False
        assert await says() == status.SERVING

        def broken(*_: object) -> None:
            raise InferenceError("the card fell off the bus")

        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            with monkeypatch.context() as patch:
                patch.setattr(Decoder, "run", broken)
                await sensor.send(sensor.batch(0, 4))
                assert (await sensor.refusal())[0] is grpc.StatusCode.INTERNAL
                assert await says() == status.NOT_SERVING
        assert await says() == status.SERVING
        watch.cancel()


def test_there_are_never_many_classes(bundle: Bundle) -> None:
    served = Pipeline(bundle, 1).derive("full", "gaussian", 2.0)
    totals = Totals()
    totals.by_class.update((OTHER._replace(variant=str(n)), ClassTotals()) for n in range(MAX_CLASSES))
    totals.answered(served, images=5, refined=2, payload_bytes=9)
    totals.answered(served, images=1, refined=0, payload_bytes=1)
    assert totals.by_class[OTHER] == ClassTotals(2, 6, 2, 10)

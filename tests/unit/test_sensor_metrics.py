"""A sensor's vitals as Prometheus reads them."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from scraped import scraped

from edge_sensor.ledger import Ledger
from edge_sensor.metrics import serve_metrics
from edge_sensor.results import ResultsFile
from edge_sensor.vitals import Vitals
from latentwire.errors import ListenError

REPORT = replace(
    Ledger(("cat", "dog"), ResultsFile(None)).report(),
    images_sent=1000,
    images_answered=990,
    dropped={"behind": 8, "ImageError": 2},
    reconnects=3,
    share_refined=0.25,
    ideal_bits=7.5,
    payload_bits=8.0,
    grpc_bits=17.0,
    latency_p50_ms=12.0,
    latency_p95_ms=40.0,
)
VITALS = Vitals(
    sensor="mast",
    server="127.0.0.1:1",
    source="a camera",
    pid=7,
    version="1",
    connected=True,
    connected_s=5.0,
    model_id="toy",
    variant="full",
    model="anchored",
    rate_scale=0.5,
    images_captured=1020,
    images_skipped={"unchanged": 77, "fps": 3},
    source_lost=True,
    source_losses=4,
    source_silent_s=9.0,
    queue_images=6,
    backlog_images=14,
    backlog_bytes=140,
    backlog_oldest_s=3.5,
    unanswered_images=10,
    encode_images=1000,
    encode_seconds=2.5,
    report=REPORT,
)
EXPECTED = {
    "images_captured_total": 1020,
    "images_sent_total": 1000,
    "images_answered_total": 990,
    "reconnects_total": 3,
    "duplicates_total": 0,
    "source_losses_total": 4,
    "images_dropped_total{reason=behind}": 8,
    "images_dropped_total{reason=ImageError}": 2,
    "images_skipped_total{reason=unchanged}": 77,
    "images_skipped_total{reason=fps}": 3,
    "bits_total{kind=ideal}": 7500,
    "bits_total{kind=payload}": 8000,
    "bits_total{kind=grpc}": 17000,
    "encode_seconds_count": 1000,
    "encode_seconds_sum": 2.5,
    "queue_images": 6,
    "backlog_images": 14,
    "backlog_bytes": 140,
    "backlog_oldest_seconds": 3.5,
    "unanswered_images": 10,
    "connected": 1,
    "source_up": 0,
    "rate_scale": 0.5,
    "share_refined": 0.25,
    "latency_seconds{quantile=0.5}": 0.012,
    "latency_seconds{quantile=0.95}": 0.04,
}


def read(port: int) -> dict[str, float]:
    return scraped(port, "latentwire_sensor_")


async def test_every_metric_is_there_and_is_asked_for_anew() -> None:
    vitals = [VITALS, replace(VITALS, rate_scale=2.0)]
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_metrics("127.0.0.1:0", lambda: vitals.pop(0), port.set_result))
    found = await asyncio.to_thread(read, await port)
    info = "info{model=anchored,model_id=toy,sensor=mast,variant=full,version=1}"
    assert found == EXPECTED | {info: 1}
    assert (await asyncio.to_thread(read, await port))["rate_scale"] == 2.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(OSError):
        await asyncio.to_thread(read, await port)


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match="give another --metrics"):
            await serve_metrics(listen, lambda: VITALS)


def test_the_operator_is_told_of_every_metric() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    names = {name.partition("{")[0] for name in EXPECTED} | {"info"}
    assert {name for name in names if f"`{name}" not in text} == set()

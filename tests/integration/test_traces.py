"""One message followed from its first image's capture to its results, over two processes' worth of spans."""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from raw_sensor import RawSensor
from sensor_rig import make_world, sensor_config, serving

from edge_sensor import run_sensor
from latentwire.bundle import load_bundle
from latentwire.errors import LatentwireError
from latentwire.messages import BatchRefused
from latentwire.tracing import MESSAGE, Tracing, trace_of


def spans(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_message_is_followed_from_capture_to_result(tmp_path: Path) -> None:
    make_world(tmp_path)
    sensor_file, server_file = tmp_path / "sensor.spans", tmp_path / "server.spans"
    async with serving(tmp_path, traces=str(server_file)) as port:
        config = sensor_config(tmp_path, tmp_path / "r.jsonl", port, images_per_message=8, traces=str(sensor_file))
        report = await asyncio.to_thread(run_sensor, config)
    assert report.images_answered == 60
    roots = [span for span in spans(sensor_file) if span["name"] == MESSAGE]
    answers = {span["context"]["trace_id"]: span for span in spans(server_file) if span["name"] == "latentwire.answer"}
    assert sum(root["attributes"]["images"] for root in roots) == 60
    assert len(answers) == len(roots)
    for root in roots:
        said, context = root["attributes"], root["context"]
        trace = trace_of("mast", said["session"], said["first_sequence"])
        assert context["trace_id"] == f"0x{trace.trace_id:032x}" and context["span_id"] == f"0x{trace.span_id:016x}"
        assert root["parent_id"] is None and root["resource"]["attributes"]["service.name"] == "latentwire-sensor"
        answer = answers[context["trace_id"]]
        assert answer["parent_id"] == context["span_id"]
        assert answer["resource"]["attributes"]["service.name"] == "latentwire-server"
        for name in ("images", "first_sequence", "session", "sensor", "payload_bytes", "rate_scale"):
            assert answer["attributes"][name] == said[name]
        (decode,) = [span for span in spans(server_file) if span["parent_id"] == answer["context"]["span_id"]]
        assert decode["name"] == "latentwire.decode"
        prepare, exchange = [span for span in spans(sensor_file) if span["parent_id"] == context["span_id"]]
        order = (root, "start_time"), (prepare, "end_time"), (answer, "start_time"), (decode, "start_time")
        order += (decode, "end_time"), (answer, "end_time"), (exchange, "end_time")
        moments = [span[when] for span, when in order]
        assert moments == sorted(moments)
        assert prepare["start_time"] == root["start_time"] and exchange["end_time"] == root["end_time"]


async def test_a_refused_message_says_so_in_its_trace(tmp_path: Path) -> None:
    make_world(tmp_path)
    file = tmp_path / "server.spans"
    bundle = load_bundle(tmp_path / "bundle")
    async with serving(tmp_path, traces=str(file)) as port, RawSensor(f"127.0.0.1:{port}", bundle) as sensor:
        await sensor.join()
        batch = sensor.batch(0, 4)
        await sensor.send(replace(batch, crc32=batch.crc32 ^ 1))
        assert isinstance(await sensor.hear(), BatchRefused)
    (answer,) = [span for span in spans(file) if span["name"] == "latentwire.answer"]
    assert answer["status"] == {"status_code": "ERROR", "description": "ChecksumError"}


def test_a_share_is_the_same_messages_on_both_sides(tmp_path: Path) -> None:
    one = Tracing("a", str(tmp_path / "one"), 0.25)
    other = Tracing("b", str(tmp_path / "other"), 0.25)
    chosen = [first for first in range(2000) if one.of("cam", "s", first) is not None]
    assert chosen == [first for first in range(2000) if other.of("cam", "s", first) is not None]
    assert 400 < len(chosen) < 600
    one.close()
    other.close()


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(LatentwireError, match=r"pip install 'latentwire\[tracing\]'"):
        Tracing("a", "file", 1.0)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LatentwireError, match="name another file"):
        Tracing("a", str(tmp_path / "nowhere" / "file"), 1.0)


def test_a_collector_gets_spans_by_otlp() -> None:
    got = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
            got.extend(span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracing = Tracing("latentwire-sensor", f"http://127.0.0.1:{port}", 1.0)
    trace = tracing.of("cam", "s", 7)
    assert trace is not None
    now_s = time.monotonic()
    tracing.first(trace, now_s - 1.0, images=3).end(now_s)
    tracing.close()
    server.stop(None).wait()
    (span,) = got
    assert (span.name, span.trace_id, span.span_id) == (
        MESSAGE,
        trace.trace_id.to_bytes(16, "big"),
        trace.span_id.to_bytes(8, "big"),
    )
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(1e9, abs=10)

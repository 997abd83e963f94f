"""Messages survive protobuf; what a peer may not send is refused before any work is done on it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentwire import messages as m
from latentwire import wire
from latentwire.errors import MalformedMessageError
from latentwire.v1 import control_pb2, stream_pb2

POINT = m.OperatingPointName(3, "full", "anchored", 0.125, b"8 bytes!", 7)
FROM_SENSOR: list[m.FromSensor] = [
    m.Hello("cam", "session", "digits", "ab" * 32, (POINT,), 17, software="latentwire 0"),
    POINT,
    replace(POINT, sensor_digest="c0" * 32),
    m.LatentBatch(2**40, 16, 3, b"payload", 2**32 - 1),
    m.CommandRefused(5, "RateScaleError", "out of range"),
    m.DropReport({"ImageError": 3, "stopped": 1}),
    m.RateControlState(5, m.RateControl(True, 3.0, 2000.0)),
    m.RateControlState(0, m.RateControl()),
]
FROM_SERVER: list[m.FromServer] = [
    m.Welcome(5, m.Limits(10, 100, 1000)),
    m.Results(9, (1, 0, 300), (0.5, 0.25, 1.0)),
    m.BatchRefused(3, 16, "ChecksumError", "damaged"),
    m.SetOperatingPoint(4, None, None, 0.5),
    m.SetOperatingPoint(4, "half", "gaussian", None),
    m.SetOperatingPoint(4, bundle_digest="c0" * 32),
    m.SetRateControl(4, automatic=True, max_age_s=3.0),
    m.SetRateControl(4, automatic=False),
    m.SetRateControl(4, budget_bits_per_s=0.0),
    m.Drain("shutting down"),
]


@pytest.mark.parametrize("message", FROM_SENSOR, ids=lambda message: type(message).__name__)
def test_a_sensors_messages_survive(message: m.FromSensor) -> None:
    proto = stream_pb2.SensorMessage.FromString(wire.from_sensor_to_proto(message).SerializeToString())
    assert wire.from_sensor_from_proto(proto, m.Limits()) == message


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: type(message).__name__)
def test_a_servers_messages_survive(message: m.FromServer) -> None:
    proto = stream_pb2.ServerMessage.FromString(wire.from_server_to_proto(message).SerializeToString())
    assert wire.from_server_from_proto(proto) == message


def test_every_kind_of_message_is_in_the_lists_above() -> None:
    assert {type(message) for message in FROM_SENSOR} == set(m.FromSensor.__args__)
    assert {type(message) for message in FROM_SERVER} == set(m.FromServer.__args__)


def test_control_survives() -> None:
    rate = m.Rate("full", "gaussian", 1.0, 0.5, 2.0, 10, 12.5, 0.25, m.RateControl(False, 1.5, 64e3))
    info = m.SensorInfo("cam", "s", True, "peer", rate, 10, 1, 5.5, {"ImageError": 2}, "digits", "c0" * 32)
    proto = control_pb2.SensorInfo.FromString(wire.sensor_info_to_proto(info).SerializeToString())
    assert wire.sensor_info_from_proto(proto) == info
    bundle = m.BundleInfo("digits", "c0" * 32, ("full", "half"), True, 12345)
    held = control_pb2.BundleInfo.FromString(wire.bundle_info_to_proto(bundle).SerializeToString())
    assert wire.bundle_info_from_proto(held) == bundle


BATCH = stream_pb2.LatentBatch
HELLO = dict(
    protocol_version=1,
    sensor="s",
    session="t",
    model_id="m",
    bundle_digest="d",
    operating_points=[stream_pb2.OperatingPoint(id=1, variant="v", model="g", rate_scale=1, digest=b"12345678")],
)
REFUSED = [
    stream_pb2.SensorMessage(),
    stream_pb2.SensorMessage(batch=BATCH(images=0)),
    stream_pb2.SensorMessage(batch=BATCH(images=1025)),
    stream_pb2.SensorMessage(batch=BATCH(images=1, payload=b"x" * 101)),
    stream_pb2.SensorMessage(hello=stream_pb2.Hello(**HELLO | {"sensor": ""})),
    stream_pb2.SensorMessage(hello=stream_pb2.Hello(**HELLO | {"sensor": "a\nb"})),
    stream_pb2.SensorMessage(hello=stream_pb2.Hello(**HELLO | {"session": "x" * 129})),
    stream_pb2.SensorMessage(hello=stream_pb2.Hello(**HELLO | {"operating_points": []})),
    stream_pb2.SensorMessage(hello=stream_pb2.Hello(**HELLO | {"sensor_digest": "x" * 129})),
    stream_pb2.SensorMessage(operating_point=stream_pb2.OperatingPoint(variant="v", model="g", digest=b"12345678")),
    stream_pb2.SensorMessage(operating_point=stream_pb2.OperatingPoint(id=1, variant="v", model="g", digest=b"123")),
    *(
        stream_pb2.SensorMessage(
            operating_point=stream_pb2.OperatingPoint(
                id=1, variant="v", model="g", digest=b"12345678", sensor_digest=digest
            )
        )
        for digest in ("c0" * 31, "C0" * 32, "../" + "c0" * 31)
    ),
    stream_pb2.SensorMessage(drop_report=stream_pb2.DropReport(dropped={f"r{i}": 1 for i in range(65)})),
    stream_pb2.SensorMessage(rate_control=stream_pb2.RateControlState(automatic=True)),
    stream_pb2.SensorMessage(rate_control=stream_pb2.RateControlState(max_age_s=2, budget_bits_per_s=-1)),
    stream_pb2.SensorMessage(rate_control=stream_pb2.RateControlState(max_age_s=float("inf"))),
]


@pytest.mark.parametrize("proto", REFUSED, ids=lambda proto: str(proto)[:40].replace("\n", " "))
def test_what_a_sensor_may_not_send(proto: stream_pb2.SensorMessage) -> None:
    limits = m.Limits(max_images_per_message=1024, max_payload_bytes=100)
    with pytest.raises(MalformedMessageError):
        wire.from_sensor_from_proto(proto, limits)


@pytest.mark.parametrize(
    "proto",
    [
        stream_pb2.ServerMessage(),
        stream_pb2.ServerMessage(results=stream_pb2.Results(label=[1, 2], probability=[0.5])),
        stream_pb2.ServerMessage(results=stream_pb2.Results()),
        stream_pb2.ServerMessage(welcome=stream_pb2.Welcome()),
        stream_pb2.ServerMessage(set_operating_point=stream_pb2.SetOperatingPoint(bundle_digest="../bundle")),
        stream_pb2.ServerMessage(set_rate_control=stream_pb2.SetRateControl(max_age_s=0)),
        stream_pb2.ServerMessage(set_rate_control=stream_pb2.SetRateControl(budget_bits_per_s=float("nan"))),
    ],
)
def test_what_a_server_may_not_send(proto: stream_pb2.ServerMessage) -> None:
    with pytest.raises(MalformedMessageError):
        wire.from_server_from_proto(proto)


@given(st.binary(max_size=200))
def test_any_bytes_parse_to_a_message_or_a_named_refusal(content: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        proto = stream_pb2.SensorMessage.FromString(content)
    except DecodeError:
        return
    try:
        message = wire.from_sensor_from_proto(proto, m.Limits())
    except MalformedMessageError:
        return
    assert isinstance(message, m.FromSensor)


def test_sixteen_images_cost_what_the_docs_say() -> None:
    proto = wire.from_sensor_to_proto(m.LatentBatch(100_000, 16, 1, bytes(20), 2**31))
    assert wire.grpc_bytes(proto) == 20 + 22  # docs/wire-format.md

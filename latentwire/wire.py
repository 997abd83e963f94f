"""The one conversion between ``messages`` and protobuf; what a peer sent is checked here, once.

``*_to_proto`` never fails on our own messages. ``*_from_proto`` raises ``MalformedMessageError`` for anything a
peer may not send, before any work is done on it.
"""

import math
from collections.abc import Mapping
from typing import assert_never

from google.protobuf.message import Message

from latentwire import messages as m
from latentwire.errors import MalformedMessageError
from latentwire.v1 import control_pb2, stream_pb2

GRPC_PREFIX_BYTES = 5  # gRPC puts a compression flag and a 32-bit length before every message
MAX_NAME_CHARACTERS = 128
MAX_OPERATING_POINTS = 4  # of a hello: each takes a derivation of tables. The others are announced when they come up
DIGEST_BYTES = 8


def grpc_bytes(message: Message) -> int:
    """Bytes that gRPC hands to HTTP/2 for one message: the protobuf and gRPC's own prefix."""
    return message.ByteSize() + GRPC_PREFIX_BYTES


def from_sensor_to_proto(message: m.FromSensor) -> stream_pb2.SensorMessage:
    """What a sensor sends, as protobuf."""
    match message:
        case m.LatentBatch():
            return stream_pb2.SensorMessage(
                batch=stream_pb2.LatentBatch(
                    first_sequence=message.first_sequence,
                    images=message.images,
                    operating_point=message.operating_point,
                    payload=message.payload,
                    crc32=message.crc32,
                )
            )
        case m.Hello():
            return stream_pb2.SensorMessage(
                hello=stream_pb2.Hello(
                    protocol_version=message.protocol_version,
                    sensor=message.sensor,
                    session=message.session,
                    model_id=message.model_id,
                    bundle_digest=message.bundle_digest,
                    operating_points=[_operating_point_to_proto(p) for p in message.operating_points],
                    next_sequence=message.next_sequence,
                    software=message.software,
                    sensor_digest=message.sensor_digest,
                )
            )
        case m.OperatingPointName():
            return stream_pb2.SensorMessage(operating_point=_operating_point_to_proto(message))
        case m.CommandRefused():
            return stream_pb2.SensorMessage(
                command_refused=stream_pb2.CommandRefused(
                    command_id=message.command_id, error=message.error, message=message.message
                )
            )
        case m.DropReport():
            return stream_pb2.SensorMessage(drop_report=stream_pb2.DropReport(dropped=dict(message.dropped)))
        case m.RateControlState():
            control = message.control
            return stream_pb2.SensorMessage(
                rate_control=stream_pb2.RateControlState(
                    command_id=message.command_id,
                    automatic=control.automatic,
                    max_age_s=control.max_age_s,
                    budget_bits_per_s=control.budget_bits_per_s or 0.0,
                )
            )
        case _:
            assert_never(message)


def from_sensor_from_proto(proto: stream_pb2.SensorMessage, limits: m.Limits) -> m.FromSensor:
    """What a sensor sent, checked against ``limits``; raises MalformedMessageError."""
    match proto.WhichOneof("message"):
        case "batch":
            return _batch_from_proto(proto.batch, limits)
        case "hello":
            return _hello_from_proto(proto.hello)
        case "operating_point":
            return _operating_point_from_proto(proto.operating_point)
        case "command_refused":
            refused = proto.command_refused
            return m.CommandRefused(refused.command_id, refused.error[:MAX_NAME_CHARACTERS], refused.message[:1024])
        case "drop_report":
            return m.DropReport(_dropped_from_proto(proto.drop_report.dropped))
        case "rate_control":
            return m.RateControlState(proto.rate_control.command_id, rate_control_from_proto(proto.rate_control))
        case _:
            raise MalformedMessageError("a sensor's message is empty or of an unknown kind")


def from_server_to_proto(message: m.FromServer) -> stream_pb2.ServerMessage:
    """What a server sends, as protobuf."""
    match message:
        case m.Results():
            return stream_pb2.ServerMessage(
                results=stream_pb2.Results(
                    first_sequence=message.first_sequence,
                    label=message.labels,
                    probability=message.probabilities,
                )
            )
        case m.Welcome():
            limits = message.limits
            return stream_pb2.ServerMessage(
                welcome=stream_pb2.Welcome(
                    next_sequence=message.next_sequence,
                    limits=stream_pb2.Limits(
                        max_images_per_message=limits.max_images_per_message,
                        max_payload_bytes=limits.max_payload_bytes,
                        max_unanswered_images=limits.max_unanswered_images,
                    ),
                )
            )
        case m.SetOperatingPoint():
            return stream_pb2.ServerMessage(
                set_operating_point=stream_pb2.SetOperatingPoint(
                    command_id=message.command_id,
                    variant=message.variant or "",
                    model=message.model or "",
                    rate_scale=message.rate_scale or 0.0,
                    bundle_digest=message.bundle_digest or "",
                )
            )
        case m.SetRateControl():
            return stream_pb2.ServerMessage(
                set_rate_control=stream_pb2.SetRateControl(
                    command_id=message.command_id,
                    automatic=message.automatic,
                    max_age_s=message.max_age_s,
                    budget_bits_per_s=message.budget_bits_per_s,
                )
            )
        case m.BatchRefused():
            return stream_pb2.ServerMessage(
                batch_refused=stream_pb2.BatchRefused(
                    first_sequence=message.first_sequence,
                    images=message.images,
                    error=message.error,
                    message=message.message,
                )
            )
        case m.Drain():
            return stream_pb2.ServerMessage(drain=stream_pb2.Drain(reason=message.reason))
        case _:
            assert_never(message)


def from_server_from_proto(proto: stream_pb2.ServerMessage) -> m.FromServer:
    """What a server sent; raises MalformedMessageError."""
    match proto.WhichOneof("message"):
        case "results":
            results = proto.results
            if len(results.label) != len(results.probability) or not results.label:
                raise MalformedMessageError("results need one label and one probability an image")
            return m.Results(results.first_sequence, tuple(results.label), tuple(results.probability))
        case "welcome":
            return _welcome_from_proto(proto.welcome)
        case "set_rate_control":
            return _set_rate_control_from_proto(proto.set_rate_control)
        case "set_operating_point":
            command = proto.set_operating_point
            return m.SetOperatingPoint(
                command_id=command.command_id,
                variant=command.variant or None,
                model=command.model or None,
                rate_scale=command.rate_scale or None,
                bundle_digest=sha256_from_proto(command.bundle_digest) if command.bundle_digest else None,
            )
        case "batch_refused":
            refused = proto.batch_refused
            return m.BatchRefused(refused.first_sequence, refused.images, refused.error, refused.message)
        case "drain":
            return m.Drain(proto.drain.reason)
        case _:
            raise MalformedMessageError("a server's message is empty or of an unknown kind")


def rate_control_to_proto(control: m.RateControl) -> control_pb2.RateControl:
    """Who turns a sensor's knob, for the control service."""
    return control_pb2.RateControl(
        automatic=control.automatic,
        max_age_s=control.max_age_s,
        budget_bits_per_s=control.budget_bits_per_s or 0.0,
    )


def rate_control_from_proto(proto: control_pb2.RateControl | stream_pb2.RateControlState) -> m.RateControl:
    """Who turns a sensor's knob; raises MalformedMessageError."""
    return m.RateControl(
        proto.automatic,
        _positive(proto.max_age_s, "max_age_s"),
        _positive(proto.budget_bits_per_s, "budget_bits_per_s") if proto.budget_bits_per_s else None,
    )


def rate_to_proto(rate: m.Rate) -> control_pb2.Rate:
    """A rate, for the control service."""
    return control_pb2.Rate(
        variant=rate.variant,
        model=rate.model,
        rate_scale=rate.rate_scale,
        min_rate_scale=rate.min_rate_scale,
        max_rate_scale=rate.max_rate_scale,
        images=rate.images,
        payload_bits_per_image=rate.payload_bits_per_image,
        share_refined=rate.share_refined,
        control=rate_control_to_proto(rate.control),
    )


def rate_from_proto(proto: control_pb2.Rate) -> m.Rate:
    """A rate, from the control service."""
    return m.Rate(
        variant=proto.variant,
        model=proto.model,
        rate_scale=proto.rate_scale,
        min_rate_scale=proto.min_rate_scale,
        max_rate_scale=proto.max_rate_scale,
        images=proto.images,
        payload_bits_per_image=proto.payload_bits_per_image,
        share_refined=proto.share_refined,
        control=rate_control_from_proto(proto.control) if proto.HasField("control") else m.RateControl(),
    )


def sensor_info_to_proto(info: m.SensorInfo) -> control_pb2.SensorInfo:
    """A sensor, for the control service."""
    return control_pb2.SensorInfo(
        name=info.name,
        session=info.session,
        connected=info.connected,
        peer=info.peer,
        rate=rate_to_proto(info.rate),
        images_answered=info.images_answered,
        images_refused=info.images_refused,
        images_per_s=info.images_per_s,
        dropped=dict(info.dropped),
        model_id=info.model_id,
        bundle_digest=info.bundle_digest,
    )


def sensor_info_from_proto(proto: control_pb2.SensorInfo) -> m.SensorInfo:
    """A sensor, from the control service."""
    return m.SensorInfo(
        name=proto.name,
        session=proto.session,
        connected=proto.connected,
        peer=proto.peer,
        rate=rate_from_proto(proto.rate),
        images_answered=proto.images_answered,
        images_refused=proto.images_refused,
        images_per_s=proto.images_per_s,
        dropped=dict(proto.dropped),
        model_id=proto.model_id,
        bundle_digest=proto.bundle_digest,
    )


def bundle_info_to_proto(info: m.BundleInfo) -> control_pb2.BundleInfo:
    """A bundle, for the control service."""
    return control_pb2.BundleInfo(
        model_id=info.model_id,
        bundle_digest=info.bundle_digest,
        variants=info.variants,
        signed=info.signed,
        sensor_bytes=info.sensor_bytes,
    )


def bundle_info_from_proto(proto: control_pb2.BundleInfo) -> m.BundleInfo:
    """A bundle, from the control service."""
    return m.BundleInfo(
        model_id=proto.model_id,
        bundle_digest=proto.bundle_digest,
        variants=tuple(proto.variants),
        signed=proto.signed,
        sensor_bytes=proto.sensor_bytes,
    )


def _operating_point_to_proto(point: m.OperatingPointName) -> stream_pb2.OperatingPoint:
    return stream_pb2.OperatingPoint(
        id=point.id,
        variant=point.variant,
        model=point.model,
        rate_scale=point.rate_scale,
        digest=point.digest,
        command_id=point.command_id,
        sensor_digest=point.sensor_digest,
    )


def _operating_point_from_proto(proto: stream_pb2.OperatingPoint) -> m.OperatingPointName:
    if proto.id == 0:
        raise MalformedMessageError("an operating point's id counts from 1")
    if len(proto.digest) != DIGEST_BYTES:
        raise MalformedMessageError(f"a table digest has {DIGEST_BYTES} bytes, not {len(proto.digest)}")
    return m.OperatingPointName(
        id=proto.id,
        variant=_name(proto.variant, "variant"),
        model=_name(proto.model, "model"),
        rate_scale=proto.rate_scale,
        digest=proto.digest,
        command_id=proto.command_id,
        sensor_digest=sha256_from_proto(proto.sensor_digest) if proto.sensor_digest else "",
    )


def _hello_from_proto(proto: stream_pb2.Hello) -> m.Hello:
    if not 1 <= len(proto.operating_points) <= MAX_OPERATING_POINTS:
        raise MalformedMessageError(f"a hello names 1 to {MAX_OPERATING_POINTS} operating points")
    return m.Hello(
        sensor=_name(proto.sensor, "sensor"),
        session=_name(proto.session, "session"),
        model_id=_name(proto.model_id, "model_id"),
        bundle_digest=_name(proto.bundle_digest, "bundle_digest"),
        operating_points=tuple(_operating_point_from_proto(p) for p in proto.operating_points),
        next_sequence=proto.next_sequence,
        protocol_version=proto.protocol_version,
        software=proto.software[:MAX_NAME_CHARACTERS],
        sensor_digest=_name(proto.sensor_digest, "sensor_digest") if proto.sensor_digest else "",
    )


def _batch_from_proto(proto: stream_pb2.LatentBatch, limits: m.Limits) -> m.LatentBatch:
    if not 1 <= proto.images <= limits.max_images_per_message:
        raise MalformedMessageError(
            f"a message carries 1 to {limits.max_images_per_message} images, not {proto.images}"
        )
    if len(proto.payload) > limits.max_payload_bytes:
        raise MalformedMessageError(f"a payload has at most {limits.max_payload_bytes} bytes, not {len(proto.payload)}")
    return m.LatentBatch(proto.first_sequence, proto.images, proto.operating_point, proto.payload, proto.crc32)


def _welcome_from_proto(proto: stream_pb2.Welcome) -> m.Welcome:
    limits = m.Limits(
        proto.limits.max_images_per_message,
        proto.limits.max_payload_bytes,
        proto.limits.max_unanswered_images,
    )
    if min(limits.max_images_per_message, limits.max_payload_bytes, limits.max_unanswered_images) < 1:
        raise MalformedMessageError("a welcome's limits are positive")
    return m.Welcome(proto.next_sequence, limits)


def _set_rate_control_from_proto(proto: stream_pb2.SetRateControl) -> m.SetRateControl:
    budget = proto.budget_bits_per_s if proto.HasField("budget_bits_per_s") else None
    return m.SetRateControl(
        proto.command_id,
        proto.automatic if proto.HasField("automatic") else None,
        _positive(proto.max_age_s, "max_age_s") if proto.HasField("max_age_s") else None,
        _positive(budget, "budget_bits_per_s") if budget else budget,
    )


def _positive(number: float, field: str) -> float:
    if not 0 < number < math.inf:
        raise MalformedMessageError(f"{field} must be a positive number, not {number}")
    return number


def _dropped_from_proto(dropped: Mapping[str, int]) -> dict[str, int]:
    counts = dict(dropped)
    if len(counts) > 64:
        raise MalformedMessageError("a drop report names at most 64 reasons")
    return {_name(reason, "reason"): int(images) for reason, images in counts.items()}


def sha256_from_proto(text: str) -> str:
    """A sha256 in lower-case hex; MalformedMessageError for anything else, a file's name above all."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise MalformedMessageError("a sha256 has 64 characters of 0-9 and a-f")
    return text


def _name(text: str, field: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_CHARACTERS or not text.isprintable():
        raise MalformedMessageError(f"{field} must be 1 to {MAX_NAME_CHARACTERS} printable characters")
    return text

"""What is sent to a server in ``benchmarks.malformed``: messages that are right, and every way to make them wrong."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latentwire import messages as m
from latentwire.bundle import Bundle, load_bundle
from latentwire.operating_point import OperatingPoint, OperatingPoints
from latentwire.v1 import stream_pb2
from latentwire.wire import from_sensor_to_proto

MESSAGES = 32  # different ones
IMAGES = 8  # in each
POINT = 1
MODEL = "anchored"
RATE_SCALE = 1.0  # every image is refined
HUGE_BYTES = 3 << 19  # more than any server here takes in a message


class Material:
    """Messages that a server accepts, of latents made up for it; the same in every process."""

    def __init__(self, bundle: str) -> None:
        """Code them with a bundle that has the entropy model ``anchored``."""
        self.bundle: Bundle = load_bundle(bundle, "server")
        variant = self.bundle.manifest.default_variant
        self.point: OperatingPoint = OperatingPoints(self.bundle).get(variant, MODEL, RATE_SCALE)
        parameters = self.bundle.codec_parameters(variant, MODEL)
        rng, codec = np.random.default_rng(0), self.point.codec
        self._coded = []
        for _ in range(MESSAGES):
            anchor = parameters.anchors[rng.integers(0, len(parameters.anchors), IMAGES)]
            latent = (anchor + rng.normal(size=anchor.shape)).astype(np.float32)
            self._coded.append(codec.encode(latent, codec.choose(latent)))

    def hello(self, name: str, session: str, next_sequence: int = 0) -> m.Hello:
        """A hello."""
        point = m.OperatingPointName(POINT, self.point.variant, MODEL, RATE_SCALE, self.point.digest)
        model_id = self.bundle.manifest.model_id
        return m.Hello(name, session, model_id, self.bundle.digest, (point,), next_sequence)

    def batch(self, number: int, first_sequence: int) -> m.LatentBatch:
        """Message ``number`` modulo ``MESSAGES``."""
        coded = self._coded[number % MESSAGES]
        return m.LatentBatch(first_sequence, IMAGES, POINT, coded.payload, coded.crc32)


def wire(message: m.FromSensor) -> bytes:
    """As it crosses the wire."""
    return from_sensor_to_proto(message).SerializeToString()


@dataclass(frozen=True, slots=True)
class Damaged:
    """A batch for the wire, whose images the server must refuse, unless they are what they were."""

    kind: str
    content: bytes


def damage(batch: m.LatentBatch, rng: random.Random) -> Damaged:
    """Make a batch wrong in a way that does not end its stream."""
    kind = rng.choice(("crc", "flipped", "cut", "longer", "noise"))
    payload, crc32 = bytearray(batch.payload), batch.crc32
    match kind:
        case "crc":
            crc32 ^= 1 << rng.randrange(32)
        case "flipped":
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        case "cut":
            del payload[rng.randrange(len(payload)) :]
        case "longer":
            payload += rng.randbytes(rng.randint(1, 64))
        case "noise":
            payload[:] = rng.randbytes(len(payload))
    proto = stream_pb2.LatentBatch(
        first_sequence=batch.first_sequence,
        images=batch.images,
        operating_point=batch.operating_point,
        payload=bytes(payload),
        crc32=crc32,
    )
    return Damaged(kind, stream_pb2.SensorMessage(batch=proto).SerializeToString())


Breach = Callable[[Material, m.Hello, random.Random], list[bytes]]
Change = Callable[[Material, m.Hello, random.Random], bytes]


def _mutated(content: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled or spliced with noise."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(4):
            case 0 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case 1:
                del made[at : at + rng.randint(1, 8)]
            case 2:
                made[at:at] = made[max(0, at - 8) : at]
            case _:
                made[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(made)


def _noise(material: Material, hello: m.Hello, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(1, 200))


def _after_hello(change: Change) -> Breach:
    return lambda material, hello, rng: [wire(hello), change(material, hello, rng)]


def _batch(fields: Callable[[random.Random], dict[str, int]], payload: bytes = b"") -> Breach:
    def change(material: Material, hello: m.Hello, rng: random.Random) -> bytes:
        named = {"images": 1, "operating_point": POINT} | fields(rng)
        batch = stream_pb2.LatentBatch(first_sequence=hello.next_sequence, payload=payload, **named)
        return stream_pb2.SensorMessage(batch=batch).SerializeToString()

    return _after_hello(change)


def _hello(**fields: object) -> Breach:
    def breach(material: Material, hello: m.Hello, rng: random.Random) -> list[bytes]:
        proto = from_sensor_to_proto(hello)
        for name, value in fields.items():
            setattr(proto.hello, name, value)
        return [proto.SerializeToString()]

    return breach


def _digest(material: Material, hello: m.Hello, rng: random.Random) -> list[bytes]:
    proto = from_sensor_to_proto(hello)
    proto.hello.operating_points[0].digest = rng.randbytes(8)
    return [proto.SerializeToString()]


def _hole(material: Material, hello: m.Hello, rng: random.Random) -> bytes:
    return wire(material.batch(0, hello.next_sequence + rng.randint(1, 1 << 40)))


def _mutated_batch(material: Material, hello: m.Hello, rng: random.Random) -> bytes:
    return _mutated(wire(material.batch(0, hello.next_sequence)), rng)


# Weight, and what to send: each ends its stream, unless a mutation made nothing wrong. What is large is rare.
BREACHES: dict[str, tuple[float, Breach]] = {
    "noise": (1, lambda material, hello, rng: [_noise(material, hello, rng)]),
    "noise_after_hello": (1, _after_hello(_noise)),
    "mutated_hello": (1, lambda material, hello, rng: [_mutated(wire(hello), rng)]),
    "mutated_batch": (2, _after_hello(_mutated_batch)),
    "empty": (1, lambda material, hello, rng: [b""]),
    "two_hellos": (1, lambda material, hello, rng: [wire(hello), wire(hello)]),
    "no_hello": (1, lambda material, hello, rng: [wire(material.batch(0, 0))]),
    "unknown_point": (1, _batch(lambda rng: {"operating_point": rng.randint(2, 99)})),
    "hole": (1, _after_hello(_hole)),
    "no_images": (1, _batch(lambda rng: {"images": 0})),
    "many_images": (1, _batch(lambda rng: {"images": rng.randint(1025, 1 << 31)})),
    "wrong_version": (1, _hello(protocol_version=7)),
    "wrong_bundle": (1, _hello(bundle_digest="0" * 64, sensor_digest="0" * 64)),
    "wrong_digest": (1, _digest),
    "oversize_payload": (0.02, _batch(lambda rng: {}, bytes((1 << 20) + 1))),
    "oversize_message": (0.02, _after_hello(lambda material, hello, rng: bytes(HUGE_BYTES))),
}

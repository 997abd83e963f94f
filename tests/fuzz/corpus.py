"""Valid messages, models and manifests: what mutations start from, and what a decoded message must equal."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentwire import messages as m
from latentwire import wire
from latentwire.bundle import Bundle, load_bundle
from latentwire.codec.choice import Choice
from latentwire.codec.latent_codec import DecodedBatch
from latentwire.codec.parameters import CodecParameters
from latentwire.operating_point import OperatingPoint, OperatingPoints
from latentwire.v1 import stream_pb2
from latentwire.wire import MAX_OPERATING_POINTS

BUNDLES = ("digits", "cifar10")
MESSAGES_OF = (1, 1, 2, 5, 16, 64)  # images; one more has as many as a server takes
LIMITS = m.Limits()
FAR_OUT = 1e6  # times as far out as a model expects


@dataclass(frozen=True, slots=True)
class Served:
    """An operating point as the server holds it: its name on the wire, and the bundle that it is of."""

    name: m.OperatingPointName
    bundle: Bundle
    point: OperatingPoint


@dataclass(frozen=True, slots=True)
class Symbols:
    """What a message codes: ``anchor`` (N,), ``level`` (N,), ``indices`` (R, d), int32."""

    anchor: NDArray[np.int32]
    level: NDArray[np.int32]
    indices: NDArray[np.int32]

    def equal(self, decoded: DecodedBatch) -> bool:
        """Whether exactly these were decoded."""
        pairs = (self.anchor, decoded.anchor), (self.level, decoded.level), (self.indices, decoded.indices)
        return all(np.array_equal(a, b) for a, b in pairs)


class Corpus:
    """``served`` by operating point's id; ``coded`` by (operating point, images, CRC-32); the rest is bytes."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.bundles = [load_bundle(name) for name in BUNDLES]
        self.points = {bundle.digest: OperatingPoints(bundle) for bundle in self.bundles}
        self.served: dict[int, Served] = {}
        self.coded: dict[tuple[int, int, int], Symbols] = {}
        self.batches: list[bytes] = []
        for bundle in self.bundles:
            for model in bundle.manifest.variant().models:
                self._add_model(bundle, model, random)
        self.batches += [self._batch(number, LIMITS.max_images_per_message, random) for number in self.served]
        self.slow = self._slow(random)
        self.others = [wire.from_sensor_to_proto(message).SerializeToString() for message in self._others()]
        self.models = [path.read_bytes() for bundle in self.bundles for path in sorted(bundle.path.glob("*.npz"))]
        self.members = [members_of(model) for model in self.models]
        self.manifests = [(bundle.path / "manifest.json").read_bytes() for bundle in self.bundles]

    def payloads(self) -> Iterator[tuple[int, int, bytes]]:
        """Operating point, images and payload of each valid message."""
        for batch in self.batches:
            message = stream_pb2.SensorMessage.FromString(batch).batch
            yield message.operating_point, message.images, message.payload

    def _add_model(self, bundle: Bundle, model: str, random: np.random.Generator) -> None:
        variant = bundle.manifest.default_variant
        entry = bundle.manifest.variant().model(model)
        for rate_scale in (entry.rate_min, entry.rate_default, entry.rate_max):
            point = self.points[bundle.digest].get(variant, model, rate_scale)
            number = len(self.served) + 1
            name = m.OperatingPointName(number, variant, model, rate_scale, point.digest)
            self.served[number] = Served(name, bundle, point)
            self.batches += [self._batch(number, images, random) for images in MESSAGES_OF]

    def _slow(self, random: np.random.Generator) -> list[bytes]:
        """Valid messages that take the longest: all that may be in one, all of it escaped; hellos of new points."""
        slow = [self._batch(number, LIMITS.max_images_per_message, random, FAR_OUT) for number in self.served]
        for number, served in self.served.items():
            model = served.point.codec.parameters
            scales = model.rate_min + (model.rate_max - model.rate_min) * random.random(MAX_OPERATING_POINTS)
            names = []
            for scale in scales.tolist():
                point = self.points[served.bundle.digest].get(served.name.variant, served.name.model, scale)
                names.append(replace(served.name, rate_scale=scale, digest=point.digest, id=len(names) + 1))
            bundle = served.bundle
            hello = m.Hello("cam", str(number), bundle.manifest.model_id, bundle.digest, tuple(names))
            slow.append(wire.from_sensor_to_proto(hello).SerializeToString())
        return slow

    def _batch(self, number: int, images: int, random: np.random.Generator, spread: float = 1.0) -> bytes:
        codec = self.served[number].point.codec
        latent, anchor = draw(codec.parameters, images, random)
        latent *= np.float32(spread)
        level = (random.random(images) < max(codec.point.share, 0.2, spread)).astype(np.int32)
        run = int(random.integers(0, 8)) if images > 1 and len(codec.anchors) > 1 else 0
        coded = codec.encode(latent, Choice(anchor, level, run))
        self.coded[number, images, coded.crc32] = Symbols(anchor, level, coded.indices)
        batch = m.LatentBatch(int(random.integers(0, 2**40)), images, number, coded.payload, coded.crc32)
        content: bytes = wire.from_sensor_to_proto(batch).SerializeToString()
        return content

    def _others(self) -> list[m.FromSensor]:
        hellos = []
        for bundle in self.bundles:
            names = tuple(served.name for served in self.served.values() if served.bundle is bundle)[:3]
            hellos.append(m.Hello("cam", "session", bundle.manifest.model_id, bundle.digest, names, 7, software="s"))
        names = [served.name for served in self.served.values()]
        return [*hellos, *names, m.CommandRefused(3, "RateScaleError", "no"), m.DropReport({"stopped": 3, "late": 1})]


def draw(
    parameters: CodecParameters, images: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Latents (N, d) as the model expects them, some far out, and an anchor (N,) each, in runs."""
    anchors, d = parameters.anchors.shape
    anchor = np.repeat(random.integers(0, anchors, images), 3)[:images].astype(np.int32)
    noise = random.normal(size=(images, d)) * parameters.spread[1][anchor]
    noise[random.random((images, d)) < 0.02] *= 1e4
    return (parameters.anchors[anchor] + noise).astype(np.float32), anchor


def members_of(model: bytes) -> dict[str, bytes]:
    """The files inside an npz."""
    with zipfile.ZipFile(BytesIO(model)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def npz_of(members: dict[str, bytes], *, deflate: bool = False) -> bytes:
    """An npz of these files, whatever they hold."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compresslevel=1)
    return buffer.getvalue()


def bundle_folder(folder: Path) -> Path:
    """A copy of the digits bundle that a manifest can be put into."""
    source = load_bundle("digits").path
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder

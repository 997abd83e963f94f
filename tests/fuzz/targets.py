"""What is fuzzed. Each takes bytes and says how they were refused, or "decoded"; anything else it raises is a find."""

from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from latentwire import messages as m
from latentwire import wire
from latentwire.bundle import load_bundle
from latentwire.codec.choice import Choice
from latentwire.errors import (
    BundleMismatchError,
    LatentwireError,
    MalformedMessageError,
    ProtocolVersionError,
    TableDigestError,
    UnknownOperatingPointError,
)
from latentwire.model_file import parameters_from_bytes
from latentwire.operating_point import OperatingPoint, OperatingPoints
from latentwire.v1 import stream_pb2

from .corpus import LIMITS, Corpus, bundle_folder, draw

DECODED = "decoded"


class SilentlyWrong(AssertionError):
    """Bytes were taken for a message that nobody coded."""


class Messages:
    """A sensor's message, from its bytes on the wire to symbols, refused as a server refuses it."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        # keeping none: what a message costs is what it costs the first time
        self._points = {bundle.digest: OperatingPoints(bundle, keep=0) for bundle in corpus.bundles}

    def __call__(self, data: bytes) -> str:
        """Take one message."""
        try:
            proto = stream_pb2.SensorMessage.FromString(data)
        except DecodeError:  # in a server, gRPC calls this parser and the service names the refusal
            return MalformedMessageError.__name__
        try:
            self._take(wire.from_sensor_from_proto(proto, LIMITS))
        except LatentwireError as error:
            return error.error_name
        return DECODED

    def _take(self, message: m.FromSensor) -> None:
        match message:
            case m.LatentBatch():
                self._decode(message)
            case m.Hello():
                self._admit(message)
            case m.OperatingPointName():
                bundle = self._corpus.bundles[0]
                self._verify(self._points[bundle.digest], message)

    def _decode(self, batch: m.LatentBatch) -> None:
        served = self._corpus.served.get(batch.operating_point)
        if served is None:
            raise UnknownOperatingPointError("not announced")
        if batch.images > served.point.codec.most_images:
            raise MalformedMessageError("too many images")
        decoded = served.point.codec.decode(batch.payload, batch.images, batch.crc32)
        coded = self._corpus.coded.get((batch.operating_point, batch.images, batch.crc32))
        if coded is None or not coded.equal(decoded):
            raise SilentlyWrong("a damaged message was decoded to other symbols than were coded")
        if not np.isfinite(decoded.latent).all():
            raise SilentlyWrong("a latent is no number")

    def _admit(self, hello: m.Hello) -> None:
        if hello.protocol_version != m.PROTOCOL_VERSION:
            raise ProtocolVersionError("another version")
        points = self._points.get(hello.bundle_digest)
        if points is None:
            raise BundleMismatchError("another bundle")
        for name in hello.operating_points:
            self._verify(points, name)

    def _verify(self, points: OperatingPoints, name: m.OperatingPointName) -> None:
        if points.get(name.variant, name.model, name.rate_scale).digest != name.digest:
            raise TableDigestError("other tables")


class Models:
    """An entropy model's file. What is taken must give tables at any rate scale, and code latents exactly."""

    def __call__(self, data: bytes) -> str:
        """Take one file."""
        try:
            parameters = parameters_from_bytes(data)
            for share in (0.0, 0.37, 1.0):
                rate_scale = parameters.rate_min + share * (parameters.rate_max - parameters.rate_min)
                point = OperatingPoint.derive(parameters, "full", "fuzz", min(rate_scale, parameters.rate_max))
                self._round_trip(point)
        except LatentwireError as error:
            return error.error_name
        return DECODED

    def _round_trip(self, point: OperatingPoint) -> None:
        random = np.random.default_rng(0)
        codec = point.codec
        latent, anchor = draw(codec.parameters, 3, random)
        coded = codec.encode(latent, Choice(anchor, np.array([1, 0, 1], np.int32)))
        decoded = codec.decode(coded.payload, 3, coded.crc32)
        if not np.array_equal(decoded.indices, coded.indices) or not np.isfinite(decoded.latent).all():
            raise SilentlyWrong("a model was taken that does not code exactly")


class Manifests:
    """A bundle's folder with a manifest that somebody else wrote."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is an empty one to work in."""
        self._folder = bundle_folder(folder)

    def __call__(self, data: bytes) -> str:
        """Take one manifest."""
        (self._folder / "manifest.json").write_bytes(data)
        try:
            bundle = load_bundle(self._folder)
            for name, variant in bundle.manifest.variants.items():
                for model in variant.models:
                    bundle.codec_parameters(name, model)
        except LatentwireError as error:
            return error.error_name
        return DECODED

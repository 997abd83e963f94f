"""The bundle's decoders, and its operating points with all that messages at them take to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_server.decoder import Decoder, MakeDecoder
from latentwire.bundle import Bundle
from latentwire.codec.latent_codec import DecodedBatch
from latentwire.errors import TableDigestError
from latentwire.messages import LatentBatch, OperatingPointName, Results
from latentwire.operating_point import OperatingPoint, OperatingPoints
from latentwire.tracing import Traced

KEPT_ANSWERS = 64  # tables of answers to anchors: as many as operating points are kept


@dataclass(frozen=True, slots=True)
class AnchorAnswers:
    """The decoder's answer to each anchor: ``label`` (A,) int64 and ``probability`` (A,) float32."""

    label: NDArray[np.int64]
    probability: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ServedPoint:
    """An operating point with all it takes to answer a batch at it."""

    point: OperatingPoint
    decoder: Decoder
    anchors: AnchorAnswers
    bundle: Bundle

    def conditions(self, decoded: DecodedBatch, rows: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """What the decoder is told of some images of a batch beside their latents, None if it takes nothing."""
        if not self.decoder.conditions:
            return None
        return self.point.conditions(decoded.anchor[rows], decoded.level[rows], self.decoder.conditions)


@dataclass(frozen=True, slots=True)
class Job:
    """A batch, the operating point it names, and its span where it is traced."""

    served: ServedPoint
    batch: LatentBatch
    traced: Traced | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A batch's results, and how many of its images were refined."""

    results: Results
    refined: int


class Pipeline:
    """The bundle's decoders and operating points. Thread-safe; every method may take milliseconds."""

    def __init__(self, bundle: Bundle, decoder_threads: int, make_decoder: MakeDecoder = Decoder) -> None:
        """Load and warm every variant's decoder, and ask it about the anchors.

        Raises InferenceError or BundleCorruptError.
        """
        self.bundle = bundle
        manifest = bundle.manifest
        self._decoders = {
            name: make_decoder(bundle.decoder_path(name), variant.d, len(manifest.classes), decoder_threads)
            for name, variant in manifest.variants.items()
        }
        self._points = OperatingPoints(bundle)
        self._anchors = lru_cache(maxsize=KEPT_ANSWERS)(self._ask_about_anchors)
        for name, variant in manifest.variants.items():
            for model in variant.models:
                self.derive(name, model, bundle.codec_parameters(name, model).rate_min)

    def derive(self, variant: str, model: str, rate_scale: float) -> ServedPoint:
        """The operating point of that name; raises UnknownVariantError or RateScaleError."""
        point = self._points.get(variant, model, rate_scale)
        decoder = self._decoders[variant]
        # a decoder that is not told of the point answers alike at all of them
        anchors = self._anchors(variant, model, point if decoder.conditions else None)
        return ServedPoint(point, decoder, anchors, self.bundle)

    def _ask_about_anchors(self, variant: str, model: str, point: OperatingPoint | None) -> AnchorAnswers:
        decoder, anchors = self._decoders[variant], self.bundle.codec_parameters(variant, model).anchors
        if point is None:
            return AnchorAnswers(*decoder.run(anchors))
        every = np.arange(len(anchors), dtype=np.int32)
        return AnchorAnswers(*decoder.run(anchors, point.conditions(every, np.zeros_like(every), decoder.conditions)))

    def check(self) -> None:
        """Run every decoder once; raises InferenceError."""
        for name, variant in self.bundle.manifest.variants.items():
            model = variant.default_model
            lowest = self.bundle.codec_parameters(name, model).rate_min
            point = self._points.get(name, model, lowest) if self._decoders[name].conditions else None
            self._ask_about_anchors(name, model, point)

    def verify(self, names: Sequence[OperatingPointName]) -> list[ServedPoint]:
        """The operating points a sensor announced; TableDigestError where its tables are not ours."""
        return [self._verified(name) for name in names]

    def _verified(self, name: OperatingPointName) -> ServedPoint:
        served = self.derive(name.variant, name.model, name.rate_scale)
        if served.point.digest != name.digest:
            raise TableDigestError(
                f"tables of {name.variant}/{name.model} at rate scale {name.rate_scale:g} differ: "
                f"the sensor's digest is {name.digest.hex()}, the server's {served.point.digest.hex()}; "
                "run the same release on both sides"
            )
        return served

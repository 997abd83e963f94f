"""Variant + entropy model + rate scale, and the tables that follow from them."""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.latent_codec import LatentCodec
from latentwire.codec.parameters import CodecParameters, locate
from latentwire.errors import InferenceError

PLAIN_CONDITIONS = 2  # before the anchors' places: level, and rate scale


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a message was coded with. ``digest`` (8 bytes) tells whether both sides derived the same tables;
    ``share_refined`` is the share of images that the tables expect above level 0."""

    variant: str
    model: str
    rate_scale: float
    codec: LatentCodec
    digest: bytes
    share_refined: float

    @classmethod
    def derive(cls, parameters: CodecParameters, variant: str, model: str, rate_scale: float) -> "OperatingPoint":
        """Derive the tables (milliseconds); RateScaleError outside the bundle's range."""
        point = locate(parameters.frontier, rate_scale)
        codec = LatentCodec(parameters, point)
        return cls(variant, model, float(rate_scale), codec, codec.tables.digest, point.share)

    def conditions(self, anchor: NDArray[np.int32], level: NDArray[np.int32], width: int) -> NDArray[np.float32]:
        """What a server knows of images for free, for a decoder that takes ``width`` conditions: (N, width) float32.

        A row is the level, log2 of the rate scale, and a one at the place of the image's anchor, nowhere where the
        model has but one. ``anchor`` and ``level`` are (N,). InferenceError for a decoder of other anchors.
        """
        anchors, places = len(self.codec.anchors), width - PLAIN_CONDITIONS
        if anchors not in (1, places):
            raise InferenceError(
                f"the decoder knows {places} anchors, but {self.variant}/{self.model} has {anchors}: export it again"
            )
        rows = np.zeros((len(anchor), width), np.float32)
        rows[:, 0], rows[:, 1] = level, math.log2(self.rate_scale)
        if anchors > 1:
            rows[np.arange(len(anchor)), PLAIN_CONDITIONS + anchor] = 1
        return rows


class HasCodecParameters(Protocol):
    """A bundle, as far as operating points need one."""

    def codec_parameters(self, variant: str, model: str) -> CodecParameters:
        """The entropy model's parameters; UnknownVariantError if there is none of that name."""
        ...


class OperatingPoints:
    """The operating points of one bundle, derived once and kept; the least lately used go first. Thread-safe."""

    def __init__(self, bundle: HasCodecParameters, keep: int = 64) -> None:
        self._bundle = bundle
        self._keep = keep
        self._points: OrderedDict[tuple[str, str, float], OperatingPoint] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, variant: str, model: str, rate_scale: float) -> OperatingPoint:
        """The operating point of that name; UnknownVariantError or RateScaleError if the bundle has none."""
        key = (variant, model, float(rate_scale))
        with self._lock:
            if key in self._points:
                self._points.move_to_end(key)
                return self._points[key]
        parameters = self._bundle.codec_parameters(variant, model)
        point = OperatingPoint.derive(parameters, *key)
        with self._lock:
            self._points[key] = point
            while len(self._points) > self._keep:
                self._points.popitem(last=False)
        return point

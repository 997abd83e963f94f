"""Variant + entropy model + rate scale, and the tables that follow from them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from latentwire.codec.latent_codec import LatentCodec
from latentwire.codec.parameters import CodecParameters, locate


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

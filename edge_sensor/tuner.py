"""Operating points and encoders of a bundle."""

from dataclasses import dataclass, replace
from typing import Self

from edge_sensor.encoder import Encoder, OnnxEncoder
from latentwire.bundle import Bundle
from latentwire.messages import SetOperatingPoint
from latentwire.operating_point import OperatingPoint, OperatingPoints


@dataclass(frozen=True, slots=True)
class Tuner:
    """Makes operating points and encoders of a bundle.

    Its methods take milliseconds to seconds: not for the loop.
    """

    bundle: Bundle
    points: OperatingPoints
    threads: int
    batch_images: int

    def of(self, bundle: Bundle) -> Self:
        """The like for another bundle."""
        return self if bundle is self.bundle else replace(self, bundle=bundle, points=OperatingPoints(bundle))

    def point(self, variant: str | None, model: str | None, rate_scale: float | None) -> OperatingPoint:
        """The operating point of that name, None meaning the bundle's default.

        Raises UnknownVariantError or RateScaleError.
        """
        manifest = self.bundle.manifest
        variant = variant or manifest.default_variant
        spec = manifest.variant(variant)
        model = model or spec.default_model
        default = spec.model(model).rate_default
        return self.points.get(variant, model, default if rate_scale is None else rate_scale)

    def encoder(self, variant: str) -> Encoder:
        """The variant's encoder, loaded; InferenceError if it cannot be."""
        manifest = self.bundle.manifest
        path = self.bundle.encoder_path(variant)
        d = manifest.variant(variant).d
        return OnnxEncoder(path, manifest.input, d, threads=self.threads, batch_images=self.batch_images)

    def changed(self, now: OperatingPoint, command: SetOperatingPoint) -> OperatingPoint:
        """The operating point that ``command`` asks for: what it leaves open stays as it is ``now``.

        An entropy model that a new variant lacks gives way to that variant's default.
        """
        variant = command.variant or now.variant
        model = command.model
        if model is None and now.model in self.bundle.manifest.variant(variant).models:
            model = now.model
        rate_scale = now.rate_scale if command.rate_scale is None else command.rate_scale
        return self.point(variant, model, rate_scale)

    def nearest(self, variant: str | None, model: str | None, rate_scale: float | None) -> OperatingPoint:
        """Like ``point``, but what this bundle lacks, and a rate scale out of its range, gives way to its default."""
        manifest = self.bundle.manifest
        variant = variant if variant in manifest.variants else manifest.default_variant
        spec = manifest.variant(variant)
        model = model if model in spec.models else spec.default_model
        entry = spec.model(model)
        if rate_scale is not None and not entry.rate_min <= rate_scale <= entry.rate_max:
            rate_scale = None
        return self.point(variant, model, rate_scale)

"""Has sensors move to another variant or bundle: control calls that may last as long as a thin link takes to carry one.

Unlike a change of the rate, a move may outlive the sensor's stream, and other commands are carried out while it lasts.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from edge_server.bundle_library import Held, variants_of
from edge_server.connection import Core
from edge_server.pipeline import ServedPoint
from edge_server.registry import Registry, Sensor, rate_of
from edge_server.stats import PointCounts
from latentwire import messages as m
from latentwire import wire
from latentwire.bundle import Manifest
from latentwire.errors import BundleError, CommandRefusedError, UnknownVariantError
from latentwire.signature import read_signature
from latentwire.v1 import control_pb2

if TYPE_CHECKING:
    from typing import Any

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

MAX_MOVE_S = 24 * 3600.0
ANSWER_MARGIN_S = 0.1  # our own answer says more than the caller's bare deadline, so it must be there first

T = TypeVar("T")


class Moves:
    """Variants, bundles, and the list of them."""

    def __init__(self, core: Core, registry: Registry) -> None:
        """Command the sensors of ``registry``."""
        self._core = core
        self._registry = registry

    async def list_bundles(self) -> control_pb2.ListBundlesResponse:
        """The server's own bundle and those of its library."""
        infos = await asyncio.to_thread(lambda: [_info(held) for held in self._core.library.all()])
        return control_pb2.ListBundlesResponse(bundles=[wire.bundle_info_to_proto(info) for info in infos])

    async def set_variant(
        self, request: control_pb2.SetVariantRequest, context: "Context"
    ) -> control_pb2.SetRateResponse:
        """Another variant of the bundle that the sensor runs."""
        sensor = self._registry.find(request.sensor)
        served = _served(sensor)
        await self._check_variant(served, served.bundle.digest, served.bundle.manifest, request.variant)
        return await self._move(sensor, context, variant=request.variant, bundle_digest=None)

    async def push_bundle(
        self, request: control_pb2.PushBundleRequest, context: "Context"
    ) -> control_pb2.SetRateResponse:
        """Another bundle, loaded here first: a sensor never moves to what the server cannot decode."""
        sensor = self._registry.find(request.sensor)
        held = await asyncio.to_thread(self._core.library.named, request.bundle)
        now = _served(sensor).bundle
        if now.digest != held.digest and now.sensor_digest == held.sensor_digest:
            raise BundleError(
                f"sensor {sensor.name!r} runs the encoder of {held.name} already, as {now.manifest.model_id} "
                f"({now.digest[:12]}), which differs from it on the server alone: give the server that --bundle"
            )
        variant = request.variant or None
        await self._check_variant(_served(sensor), held.digest, held.manifest, variant)
        return await self._move(sensor, context, variant=variant, bundle_digest=held.digest)

    async def _check_variant(self, now: ServedPoint, digest: str, manifest: Manifest, variant: str | None) -> None:
        """Load the bundle and derive the operating point that the sensor will choose, as far as it can be known."""
        if variant is not None and variant not in manifest.variants:
            raise UnknownVariantError(f"no variant {variant[:128]!r}; there are {', '.join(manifest.variants)}")
        name = variant or now.point.variant
        name = name if name in manifest.variants else manifest.default_variant
        spec = manifest.variants[name]
        model = now.point.model if now.point.model in spec.models else spec.default_model
        entry = spec.model(model)
        kept = entry.rate_min <= now.point.rate_scale <= entry.rate_max
        rate_scale = now.point.rate_scale if kept else entry.rate_default

        # loaded beside the thread that derives tables, which no stream may wait for
        pipeline = await asyncio.to_thread(self._core.library.pipeline, digest)
        await asyncio.get_running_loop().run_in_executor(self._core.tables, pipeline.derive, name, model, rate_scale)

    async def _move(
        self, sensor: Sensor, context: "Context", *, variant: str | None, bundle_digest: str | None
    ) -> control_pb2.SetRateResponse:
        """Send the command, wait for the first batch that shows it done."""
        if sensor.link is None:
            raise CommandRefusedError(f"sensor {sensor.name!r} is not connected; see 'ctl sensors'")
        before, before_id = _served(sensor), sensor.current
        command = sensor.commands.issue()
        command.lasting = m.SetOperatingPoint(command.id, variant=variant, bundle_digest=bundle_digest)
        try:
            sensor.link.send(command.lasting)
            first = await _in_time(sensor, context, command.done)
        finally:
            sensor.commands.forget(command)
        after = command.served
        assert after is not None, "what is done was announced"
        wanted = before.bundle.digest if bundle_digest is None else bundle_digest
        if after.bundle.digest != wanted and not self._alike(after, wanted):
            raise CommandRefusedError(f"sensor {sensor.name!r} is of a release that takes no bundles over the air")
        counts = PointCounts(first.images, first.payload_bits, first.refined)
        was = rate_of(before, sensor.counts.point(before_id))
        return control_pb2.SetRateResponse(
            before=wire.rate_to_proto(was), after=wire.rate_to_proto(rate_of(after, counts))
        )

    def _alike(self, after: ServedPoint, wanted: str) -> bool:
        """Two bundles may differ in what is the server's alone; an operating point then tells of either."""
        return self._core.library.with_digest(wanted).sensor_digest == after.bundle.sensor_digest


async def _in_time(sensor: Sensor, context: "Context", done: Awaitable[T]) -> T:
    left_s = context.time_remaining()  # None without a deadline, whatever the stub says
    timeout_s = min(MAX_MOVE_S, math.inf if left_s is None else max(0.0, left_s - ANSWER_MARGIN_S))
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    except TimeoutError:
        raise CommandRefusedError(
            f"sensor {sensor.name!r} sent no batch at the new operating point within {timeout_s:.1f} s; "
            "it goes on with what it was told: see 'ctl sensors'"
        ) from None


def _info(held: Held) -> m.BundleInfo:
    return m.BundleInfo(
        model_id=held.manifest.model_id,
        bundle_digest=held.digest,
        variants=tuple(variants_of(held.manifest)),
        signed=bool(read_signature(held.path)),
        sensor_bytes=sum(entry.bytes for entry in held.manifest.files("sensor")),
    )


def _served(sensor: Sensor) -> ServedPoint:
    assert sensor.served is not None, "a sensor is found once its operating points are verified"
    return sensor.served

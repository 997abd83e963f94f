"""Moves a running sensor to another bundle or variant, and back again when that fails.

::

    command -> fetch what is lacking -> check -> load and warm beside the running one -> ask the server
            -> switch at a message boundary, on trial -> the first answer: keep it, and start with it from now on
                                                      -> a failure: the one before goes on, and codes the same images

Until the switch the running encoder does not notice. Only then are two encoders in memory, and one again after it.
"""

import asyncio
import logging
from dataclasses import dataclass, replace

import numpy as np

from edge_sensor.bundle_fetch import BundleClient
from edge_sensor.bundle_store import BundleStore
from edge_sensor.encoder import Encoder
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.session import Session
from edge_sensor.tuner import Tuner
from latentwire.bundle import Bundle, Manifest
from latentwire.errors import BundleError, BundleMismatchError, CommandRefusedError, InferenceError, LatentwireError
from latentwire.messages import SetOperatingPoint
from latentwire.operating_point import OperatingPoint

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle's variant that is loaded and has coded images made up for it."""

    tuner: Tuner
    point: OperatingPoint
    encoder: Encoder


def first_candidate(
    tuner: Tuner, store: BundleStore | None, variant: str | None, model: str | None, rate_scale: float | None
) -> Candidate:
    """What a sensor starts with: the bundle that came over the air last and can be used, else the configured one.

    Raises what is wrong with the configured one. Blocks.
    """
    for choice in () if store is None else store.choices():
        try:
            assert store is not None, "it has choices"
            stored = tuner.of(store.open(choice.digest, choice.variant))
            point = stored.nearest(choice.variant, model, rate_scale)
            return Candidate(stored, point, stored.encoder(point.variant))
        except LatentwireError as error:
            log.warning("bundle %s came over the air and cannot be used: %s", choice.digest[:12], error)
    point = tuner.point(variant, model, rate_scale)
    return Candidate(tuner, point, tuner.encoder(point.variant))


class Updater:
    """One change of variant or bundle at a time; a later one takes the place of one that is still being fetched."""

    def __init__(
        self, session: Session, tuner: Tuner, queue: FrameQueue, client: BundleClient, store: BundleStore | None
    ) -> None:
        """``store`` is None for a sensor that takes no bundles; its variants can still be changed."""
        self._session = session
        self._tuner = tuner
        self._queue = queue
        self._client = client
        self._store = store
        self._next: SetOperatingPoint | None = None
        self._current: SetOperatingPoint | None = None
        self._preparing: asyncio.Task[Candidate] | None = None
        self._came = asyncio.Event()

    def put(self, command: SetOperatingPoint) -> None:
        """Take a command; one that comes again, after a cut link, is the same one."""
        if any(known is not None and known.command_id == command.command_id for known in (self._current, self._next)):
            return
        if self._next is not None:
            self._give_way(self._next)
        self._next = command
        if self._preparing is not None:
            self._preparing.cancel()
        self._came.set()

    async def run(self) -> None:
        """Carry commands out until cancelled."""
        while True:
            await self._came.wait()
            self._came.clear()
            command, self._next = self._next, None
            if command is not None:
                await self._one(command)

    async def _one(self, command: SetOperatingPoint) -> None:
        self._current = command
        try:
            candidate = await self._prepared(command)
            if candidate is None:
                self._give_way(command)
            else:
                await self._switch(candidate, command)
        except LatentwireError as error:
            log.warning("bundle or variant stays as it was: %s", error)
            self._session.refuse(command.command_id, error)
            if self._store is not None and not isinstance(error, CommandRefusedError):  # then it may be tried again
                await asyncio.to_thread(self._store.prune)
        finally:
            self._current = None
            await self._client.close()

    async def _prepared(self, command: SetOperatingPoint) -> Candidate | None:
        """What the command asks for, ready to be switched to; None when a later command took its place."""
        session = self._session
        preparing = self._preparing = asyncio.create_task(self._prepare(command))
        ended = asyncio.create_task(session.wakeup.wait_for(lambda: session.coded_all))
        try:
            await asyncio.wait({preparing, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._preparing = None
            preparing.cancel()
            ended.cancel()
        if not preparing.done():
            raise CommandRefusedError("the sensor has coded its last image")
        return None if preparing.cancelled() else preparing.result()

    async def _prepare(self, command: SetOperatingPoint) -> Candidate:
        session = self._session
        digest = command.bundle_digest or session.target_bundle.digest
        if digest == session.target_bundle.digest and self._lacks_nothing(session.target_bundle):
            bundle = session.target_bundle
        else:
            bundle = await self._fetched(digest, command.variant)
        tuner = self._tuner = self._tuner.of(bundle)
        point = await asyncio.to_thread(_point, tuner, session.target, command)
        same = digest == session.target_bundle.digest and point.variant == session.target.variant
        encoder = session.target_encoder if same else await asyncio.to_thread(_warmed, tuner, point)
        await self._client.check(digest, point)
        return Candidate(tuner, point, encoder)

    def _lacks_nothing(self, bundle: Bundle) -> bool:
        """A bundle that came over the air has the files of the variants that were used so far, and of no other."""
        return self._store is None or not self._store.is_stored(bundle.digest)

    async def _fetched(self, digest: str, variant: str | None) -> Bundle:
        store, now = self._store, self._session.target
        if store is None:
            raise BundleError("this sensor takes no bundles over the air: start it with --bundle-store FOLDER")
        manifest = await asyncio.to_thread(store.manifest, digest)
        if manifest is None:
            manifest = await self._client.manifest(store, digest)
        _check_fits(manifest, self._session.target_bundle.manifest)
        wanted = variant or (now.variant if now.variant in manifest.variants else manifest.default_variant)
        lacking = await asyncio.to_thread(store.lacking, digest, manifest, wanted)
        await asyncio.to_thread(store.prune, digest, lacking)
        for entry in lacking:
            await self._client.file(store, digest, entry)
        return await asyncio.to_thread(store.open, digest, wanted)

    async def _switch(self, candidate: Candidate, command: SetOperatingPoint) -> None:
        """Code with it from the next message on; returns when it has proved itself, raises what it failed with."""
        session, bundle = self._session, candidate.tuner.bundle
        await session.wakeup.wait_for(lambda: not session.turning)
        # the rate may have been changed while this one was fetched; its variant is the one that was loaded
        wanted = replace(command, variant=candidate.point.variant)
        point = await asyncio.to_thread(_point, candidate.tuner, session.target, wanted)
        if session.coded_all:
            raise CommandRefusedError("the sensor has coded its last image")
        trial = session.try_out(point, candidate.encoder, command.command_id, bundle)
        self._queue.hurry()
        await trial.passed
        log.info("bundle %s (%s), variant %s", bundle.manifest.model_id, bundle.digest[:12], point.variant)
        if self._store is not None:
            try:
                await asyncio.to_thread(self._store.chose, bundle.digest, point.variant)
            except BundleError as error:  # a full disk; what proved itself runs on
                log.warning("bundle %s runs, but a restart will not find it: %s", bundle.digest[:12], error)

    def _give_way(self, command: SetOperatingPoint) -> None:
        self._session.refuse(command.command_id, CommandRefusedError("a later command took its place"))


def _point(tuner: Tuner, now: OperatingPoint, command: SetOperatingPoint) -> OperatingPoint:
    """What the command asks for; what it leaves open stays as it is ``now``, where the bundle has that.

    Raises UnknownVariantError or RateScaleError for what it asks for and the bundle lacks.
    """
    if command.variant is not None:
        tuner.bundle.manifest.variant(command.variant)  # raises if there is none of that name
    near = tuner.nearest(command.variant or now.variant, command.model or now.model, now.rate_scale)
    if command.model is None and command.rate_scale is None:
        return near
    rate_scale = near.rate_scale if command.rate_scale is None else command.rate_scale
    return tuner.point(near.variant, command.model or near.model, rate_scale)


def _check_fits(manifest: Manifest, now: Manifest) -> None:
    """Refuse a bundle that this sensor's source has no images for, or whose answers would be read wrongly."""
    if manifest.input != now.input:
        wanted, ours = (f"{i.height} x {i.width} {i.channel_order}" for i in (manifest.input, now.input))
        raise BundleMismatchError(
            f"bundle {manifest.model_id!r} takes {wanted} images, this sensor makes {ours}: restart it with --bundle"
        )
    if manifest.classes != now.classes:
        raise BundleMismatchError(
            f"bundle {manifest.model_id!r} has other classes than the sensor's {now.model_id!r}: "
            "restart it with --bundle"
        )


def _warmed(tuner: Tuner, point: OperatingPoint) -> Encoder:
    """The variant's encoder, after it has coded images made up for it; raises InferenceError if they come out wrong."""
    manifest = tuner.bundle.manifest
    spec, variant = manifest.input, manifest.variant(point.variant)
    encoder = tuner.encoder(point.variant)
    random = np.random.default_rng(0)
    for images in (1, tuner.batch_images):
        noise = random.integers(0, 256, (images, spec.height, spec.width, spec.channels)).astype(np.uint8)
        latents = encoder.encode(noise)
        if not np.isfinite(latents.latent).all() or variant.head != (latents.head_logits is not None):
            raise InferenceError(
                f"the encoder of {manifest.model_id!r}/{point.variant} gives latents that are no numbers, or no head "
                "where its manifest says so: export the bundle again"
            )
        coded = point.codec.encode(latents.latent, point.codec.choose(latents.latent, latents.head_logits))
        point.codec.decode(coded.payload, images, coded.crc32)
    return encoder

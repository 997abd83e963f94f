"""Every bundle that a server can decode and hand out: its own, and those in its library folder.

The folder is looked through again when something is asked for that is not known, so a bundle may be put there (renamed
into place) while the server runs. Decoders of the library's bundles are loaded when first needed, and those least
lately used are let go; streams keep what they use. Thread-safe; every method may take seconds.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_server.decoder import Decoder, MakeDecoder
from edge_server.pipeline import Pipeline, ServedPoint
from latentwire.bundle import MANIFEST, Bundle, Manifest, load_bundle, read_manifest, sensor_digest
from latentwire.errors import BundleError, BundleMismatchError, BundleNotFoundError
from latentwire.messages import Hello, OperatingPointName

KEPT_PIPELINES = 8
MAX_BUNDLES = 256
SCAN_INTERVAL_S = 1.0
MIN_DIGEST_CHARACTERS = 6  # of a digest's beginning that names a bundle

log = logging.getLogger("latentwire.server")


@dataclass(frozen=True, slots=True)
class Held:
    """A bundle in the library; its files are verified when it is loaded or handed out."""

    path: Path
    manifest: Manifest
    digest: str
    sensor_digest: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.manifest.model_id} ({self.digest[:12]})"


class BundleLibrary:
    """Finds bundles by digest or name, and loads their decoders."""

    def __init__(
        self,
        own: Pipeline,
        folder: Path | None,
        decoder_threads: int,
        clock: Callable[[], float] = time.monotonic,
        make_decoder: MakeDecoder = Decoder,
    ) -> None:
        """``own`` is the server's own bundle, which stays loaded; ``folder`` holds a folder for each other one.

        Raises BundleNotFoundError if there is no such folder.
        """
        if folder is not None and not folder.is_dir():
            raise BundleNotFoundError(f"there is no library folder {folder}; make it, or leave --library out")
        self.own = own
        bundle = own.bundle
        self._own = Held(bundle.path, bundle.manifest, bundle.digest, bundle.sensor_digest)
        self._folder = folder
        self._decoder_threads = decoder_threads
        self._make_decoder = make_decoder
        self._clock = clock
        self._lock = threading.RLock()
        self._loading = threading.Lock()  # one bundle at a time, and without the other: what is loaded is served on
        self._held: dict[str, Held] = {}
        self._scanned_s = float("-inf")
        self._loaded: OrderedDict[str, Pipeline] = OrderedDict()
        self._bad: set[Path] = set()

    def all(self) -> list[Held]:
        """The server's own bundle, and the library's by name."""
        with self._lock:
            self._scan()
            return [self._own, *sorted(self._held.values(), key=lambda held: held.name)]

    def named(self, name: str) -> Held:
        """The one bundle of that model id, digest or beginning of a digest; BundleNotFoundError or BundleError."""
        every = self.all()
        found = {held.digest: held for held in every if _is_named(held, name)}
        if not found:
            there = ", ".join(held.name for held in every[:10])
            raise BundleNotFoundError(
                f"the server holds no bundle {name[:128]!r}, but {there}: put its folder into the server's --library"
            )
        if len(found) > 1:
            several = ", ".join(sorted(held.name for held in found.values()))
            raise BundleError(f"{name[:128]!r} may be {several}: give the digest, or the bundle's folder")
        return next(iter(found.values()))

    def pipeline(self, digest: str) -> Pipeline:
        """The decoders of the bundle of that digest, loaded; BundleMismatchError, or what is wrong with the bundle."""
        if (found := self._known(digest)) is not None:
            return found
        with self._loading:
            if (found := self._known(digest)) is not None:
                return found
            loaded = self._load(self.with_digest(digest))
            with self._lock:
                self._loaded[digest] = loaded
                while len(self._loaded) > KEPT_PIPELINES:
                    self._loaded.popitem(last=False)
        return loaded

    def with_digest(self, digest: str) -> Held:
        """The bundle of that digest; BundleMismatchError."""
        found = self._find(lambda held: held.digest == digest)
        if found is None:
            raise BundleMismatchError(f"the server holds no bundle {digest[:12]}: put its folder into its --library")
        return found

    def load(self, hello: Hello) -> None:
        """Load what ``verify`` will ask for, which may take seconds; raises the like."""
        theirs = self._of(hello)
        for name in hello.operating_points:
            self.pipeline_of(name, theirs)

    def verify(self, hello: Hello) -> list[ServedPoint]:
        """The operating points a hello announces; raises what the sensor is to be refused with."""
        theirs = self._of(hello)
        return [self.verify_one(name, theirs) for name in hello.operating_points]

    def verify_one(self, name: OperatingPointName, bundle: Bundle) -> ServedPoint:
        """An operating point a sensor announced, of ``bundle`` unless it names another."""
        (served,) = self.pipeline_of(name, bundle).verify([name])
        return served

    def pipeline_of(self, name: OperatingPointName, bundle: Bundle) -> Pipeline:
        """The decoders of the bundle that an operating point is of, loaded; BundleMismatchError.

        Of several that differ in what is the server's alone, that is ``bundle``, the server's own, or the first of the
        library by its folder's name.
        """
        digest = bundle.digest
        if name.sensor_digest not in ("", bundle.sensor_digest):
            found = self._find(lambda held: held.sensor_digest == name.sensor_digest)
            if found is None:
                raise BundleMismatchError(
                    f"an operating point is of a bundle ({name.sensor_digest[:12]}) that the server does not hold: "
                    "put its folder into the server's --library"
                )
            digest = found.digest
        return self.pipeline(digest)

    def derive(self, bundle: Bundle, variant: str, model: str, rate_scale: float) -> ServedPoint:
        """An operating point of a bundle that is served; UnknownVariantError or RateScaleError."""
        return self.pipeline(bundle.digest).derive(variant, model, rate_scale)

    def sensor_file(self, sha256: str) -> Path:
        """Where a file lies that sensors need of some bundle here; BundleNotFoundError. Its bytes are not checked."""
        for held in self.all():
            for entry in held.manifest.files("sensor"):
                if entry.sha256 == sha256:
                    return held.path / entry.path
        raise BundleNotFoundError(f"no bundle here has a file {sha256[:12]} for sensors")

    def _of(self, hello: Hello) -> Bundle:
        """The bundle that a hello names, or one that differs from it in what is the server's alone."""
        found = self._find(lambda held: held.digest == hello.bundle_digest)
        if found is None and hello.sensor_digest:
            found = self._find(lambda held: held.sensor_digest == hello.sensor_digest)
        if found is None or found.manifest.model_id != hello.model_id:
            raise BundleMismatchError(
                f"the sensor runs bundle {hello.model_id!r} ({hello.bundle_digest[:12]}), "
                f"the server {self._own.manifest.model_id!r} ({self._own.digest[:12]}): give both the same bundle"
            )
        return self.pipeline(found.digest).bundle

    def _known(self, digest: str) -> Pipeline | None:
        """A pipeline that is loaded; it is served even if its folder is gone."""
        if digest == self._own.digest:
            return self.own
        with self._lock:
            if digest in self._loaded:
                self._loaded.move_to_end(digest)
            return self._loaded.get(digest)

    def _load(self, held: Held) -> Pipeline:
        log.info("loading bundle %s from %s", held.name, held.path)
        bundle = load_bundle(held.path)
        if bundle.digest != held.digest:
            raise BundleError(f"the bundle in {held.path} has just been replaced; try again")
        return Pipeline(bundle, self._decoder_threads, self._make_decoder)

    def _find(self, wanted: Callable[[Held], bool]) -> Held | None:
        with self._lock:
            for scan in (False, True):
                if scan:
                    self._scan()
                for held in (self._own, *self._held.values()):
                    if wanted(held):
                        return held
        return None

    def _scan(self) -> None:
        """Look through the folder, once a second at most."""
        now_s = self._clock()
        if self._folder is None or now_s - self._scanned_s < SCAN_INTERVAL_S:
            return
        self._scanned_s = now_s
        self._held = {held.digest: held for held in self._read(self._folder)}

    def _read(self, folder: Path) -> Iterator[Held]:
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            log.warning("the library %s cannot be read (%s)", folder, error.strerror)
            return
        for path in paths[:MAX_BUNDLES]:
            if not (path / MANIFEST).is_file():
                continue
            try:
                manifest, digest = read_manifest(path)
            except BundleError as error:
                if path not in self._bad:
                    log.warning("the library's %s cannot be used: %s", path.name, error)
                self._bad.add(path)
                continue
            self._bad.discard(path)
            yield Held(path, manifest, digest, sensor_digest(manifest))


def _is_named(held: Held, name: str) -> bool:
    return name == held.manifest.model_id or (len(name) >= MIN_DIGEST_CHARACTERS and held.digest.startswith(name))


def variants_of(manifest: Manifest) -> Sequence[str]:
    """Names of the variants, the default first."""
    return [manifest.default_variant, *(name for name in manifest.variants if name != manifest.default_variant)]

"""Bundles that came over the air, on the sensor's disk.

::

    STORE/state.json            what to start with, and what ran before
    STORE/bundles/DIGEST/       manifest.json, manifest.sig, and the files that were needed so far
    STORE/partial/SHA256        a file that is not yet whole

The last two bundles that proved themselves are kept, so the store never holds more than three and the parts of one. A
file is in a bundle's folder only when its size and sha256 are the manifest's. Every method may block.
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_sensor.config import SensorConfig
from latentwire.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Bundle,
    FileEntry,
    Manifest,
    load_bundle,
    parse_manifest,
    verify_file,
)
from latentwire.durable import sync_folder
from latentwire.errors import BundleCorruptError, BundleError
from latentwire.signature import SIGNATURE_BYTES, check_signature, load_public_key, read_signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_BUNDLE_BYTES = 1 << 28  # of a bundle's part that a sensor needs
KEPT_BUNDLES = 2
_STATE = "state.json"

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class Choice:
    """A bundle by its digest, and a variant of it."""

    digest: str
    variant: str | None


@dataclass(frozen=True, slots=True)
class _State:
    """``configured`` is what the sensor's own settings named when ``chosen`` (newest first) came over the air."""

    configured: Choice
    chosen: tuple[Choice, ...] = field(default=())


class BundleStore:
    """A folder of bundles; one sensor at a time may use it."""

    def __init__(self, folder: Path, configured: Bundle, variant: str | None, key: "Ed25519PublicKey | None") -> None:
        """``configured`` is the bundle of the sensor's own settings, ``variant`` the one they name.

        With a ``key``, only bundles signed by it are taken. Raises BundleError if the folder cannot be used.
        """
        self._folder = folder
        self._configured = configured
        self._key = key
        self._bundles = folder / "bundles"
        self._partial = folder / "partial"
        with self._writing():
            self._bundles.mkdir(parents=True, exist_ok=True)
            self._partial.mkdir(exist_ok=True)
            self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise BundleError(f"the bundle store {folder} is another sensor's; give each its own") from None
        self._state = _State(Choice(configured.digest, variant))
        self._read_state()

    @classmethod
    def of(cls, config: SensorConfig, configured: Bundle) -> "BundleStore | None":
        """The store that the settings name; None if they name none."""
        if config.bundle_store is None:
            return None
        key = None if config.bundle_key is None else load_public_key(Path(config.bundle_key))
        return cls(Path(config.bundle_store), configured, config.variant, key)

    def close(self) -> None:
        """Let another process use the folder."""
        self._lock.close()

    def choices(self) -> tuple[Choice, ...]:
        """What to start with, best first; the configured bundle, which comes last, is not among them."""
        return self._state.chosen

    def is_stored(self, digest: str) -> bool:
        """Whether a bundle is one that came over the air, of which some variants' files may be lacking."""
        return digest != self._configured.digest

    def open(self, digest: str, variant: str | None) -> Bundle:
        """A bundle, with the variants whose files are here; BundleError if ``variant`` cannot be used."""
        if not self.is_stored(digest):
            return self._configured
        folder = self._bundles / digest
        content = _read(folder / MANIFEST)
        manifest, found = parse_manifest(content, folder / MANIFEST)
        if found != digest:
            raise BundleCorruptError(f"{folder / MANIFEST} is not the manifest that was stored")
        self._check_signature(content, read_signature(folder), manifest)
        variant = variant or manifest.default_variant
        whole = [name for name in manifest.variants if name != variant and self._is_whole(folder, manifest, name)]
        return load_bundle(folder, "sensor", (variant, *whole))

    def manifest(self, digest: str) -> Manifest | None:
        """A stored bundle's manifest; None if it must be fetched."""
        if not self.is_stored(digest):
            return self._configured.manifest
        path = self._bundles / digest / MANIFEST
        try:
            manifest, found = parse_manifest(_read(path), path)
        except BundleError:
            return None
        return manifest if found == digest else None

    def add_manifest(self, digest: str, content: bytes, signature: bytes) -> Manifest:
        """Take a manifest that was fetched as ``digest``.

        BundleCorruptError, BundleVersionError or SignatureError if it must not be used.
        """
        if hashlib.sha256(content).hexdigest() != digest:
            raise BundleCorruptError(f"the manifest handed out as {digest[:12]} is another (sha256 differs)")
        manifest, _ = parse_manifest(content, f"bundle {digest[:12]}")
        self._check_signature(content, signature, manifest)
        size = sum(entry.bytes for entry in manifest.files("sensor"))
        if size > MAX_BUNDLE_BYTES or any(entry.bytes < 0 for entry in manifest.files("sensor")):
            raise BundleCorruptError(f"bundle {manifest.model_id!r} has {size} bytes for sensors: too many")
        folder = self._bundles / digest
        with self._writing():
            folder.mkdir(exist_ok=True)
            if signature:
                _write_safely(folder / SIGNATURE, signature)
            _write_safely(folder / MANIFEST, content)
        return manifest

    def lacking(self, digest: str, manifest: Manifest, variant: str) -> list[FileEntry]:
        """The files of a stored bundle that a variant needs and that must be fetched.

        Those that lie in another bundle here are copied from there.
        """
        if not self.is_stored(digest):
            return []
        folder = self._bundles / digest
        entries = manifest.files("sensor", (variant,))
        return [
            entry for entry in entries if not _holds(folder / entry.path, entry) and not self._copied(folder, entry)
        ]

    def offset(self, entry: FileEntry) -> int:
        """Bytes of the file that are here already."""
        path = self._partial / entry.sha256
        try:
            size = path.stat().st_size
        except OSError:
            return 0
        if size > entry.bytes:
            path.unlink()
            return 0
        return size

    def append(self, entry: FileEntry, data: bytes) -> int:
        """Add the next bytes of a file; returns how many are here now."""
        path = self._partial / entry.sha256
        with self._writing(), path.open("ab") as file:
            if file.tell() + len(data) > entry.bytes:
                raise BundleCorruptError(f"the server hands out more of {entry.path} than its manifest says")
            file.write(data)
            return file.tell()

    def finish(self, digest: str, entry: FileEntry) -> None:
        """Move a whole file into its bundle; BundleCorruptError if it is not the one the manifest names."""
        path = self._partial / entry.sha256
        with self._writing():
            path.touch()  # a file may have no bytes at all
            try:
                verify_file(path, entry)
            except BundleCorruptError:
                path.unlink()
                raise BundleCorruptError(
                    f"the server's {entry.path} is not the file that the manifest names (sha256 differs)"
                ) from None
            _sync(path)
            path.rename(self._bundles / digest / entry.path)

    def chose(self, digest: str, variant: str) -> None:
        """A bundle has proved itself: start with it from now on, and keep the one before."""
        choice = Choice(digest, variant)
        before = [old for old in self._state.chosen if old.digest != digest]
        if not before and self.is_stored(digest):
            before = [self._state.configured]
        state = replace(self._state, chosen=(choice, *before)[:KEPT_BUNDLES])
        with self._writing():
            _write_safely(self._folder / _STATE, msgspec.json.encode(state))
        self._state = state
        self.prune()

    def prune(self, but: str = "", parts: Sequence[FileEntry] = ()) -> None:
        """Remove every bundle but the kept ones and that of digest ``but``, and all parts of files but ``parts``."""
        bundles = {choice.digest for choice in self._state.chosen} | {but}
        files = {entry.sha256 for entry in parts}
        with suppress(OSError):  # what cannot be removed now is tried again after the next change
            for folder in self._bundles.iterdir():
                if folder.name not in bundles:
                    shutil.rmtree(folder, ignore_errors=True)
            for path in self._partial.iterdir():
                if path.name not in files:
                    path.unlink()

    def _read_state(self) -> None:
        """Take the state over, unless the sensor's settings name another bundle or variant than they did then."""
        path = self._folder / _STATE
        if not path.exists():
            return
        try:
            state = msgspec.json.decode(_read(path), type=_State)
        except (BundleError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read (%s): starting with the configured bundle", path, error)
            return
        if state.configured != self._state.configured:
            log.warning("the settings name another bundle or variant than before: what came over the air is set aside")
        elif all(_is_digest(choice.digest) for choice in state.chosen):
            self._state = state

    def _check_signature(self, content: bytes, signature: bytes, manifest: Manifest) -> None:
        if self._key is not None:
            check_signature(content, signature, self._key, manifest.model_id)
        elif len(signature) > SIGNATURE_BYTES:
            raise BundleCorruptError(f"the signature of bundle {manifest.model_id!r} is none")

    def _is_whole(self, folder: Path, manifest: Manifest, variant: str) -> bool:
        return all(_holds(folder / entry.path, entry) for entry in manifest.files("sensor", (variant,)))

    def _copied(self, folder: Path, entry: FileEntry) -> bool:
        """Whether a file of another bundle here is this one; then it is copied."""
        for source, name in self._alike(entry):
            with suppress(OSError, BundleCorruptError):
                verify_file(source / name, entry)
                shutil.copyfile(source / name, self._partial / entry.sha256)
                _sync(self._partial / entry.sha256)
                (self._partial / entry.sha256).rename(folder / entry.path)
                return True
        return False

    def _alike(self, entry: FileEntry) -> Iterator[tuple[Path, str]]:
        known: list[tuple[Path, Manifest]] = [(self._configured.path, self._configured.manifest)]
        for choice in self._state.chosen:
            manifest = self.manifest(choice.digest)
            if manifest is not None and self.is_stored(choice.digest):
                known.append((self._bundles / choice.digest, manifest))
        for folder, manifest in known:
            for other in manifest.files("sensor"):
                if other.sha256 == entry.sha256:
                    yield folder, other.path

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BundleError(f"the bundle store {self._folder} cannot be used ({error.strerror})") from error


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _holds(path: Path, entry: FileEntry) -> bool:
    try:
        verify_file(path, entry)
    except BundleCorruptError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror})") from None


def _write_safely(path: Path, content: bytes) -> None:
    """Whole or not at all, whenever the power goes."""
    staging = path.with_suffix(".new")
    staging.write_bytes(content)
    _sync(staging)
    staging.rename(path)
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""The model bundle on disk: a folder with ``manifest.json`` and the files it names (docs/bundle-format.md).

Every file is checked against the manifest's sha256 before it is used, and nothing in a bundle is ever unpickled.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from latentwire.codec.parameters import CodecParameters
from latentwire.errors import (
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    BundleVersionError,
    UnknownVariantError,
)
from latentwire.model_file import MAX_MODEL_BYTES, parameters_from_bytes

FORMAT_VERSION = 2  # what is written
PAYLOAD_FORMATS = {1: 1, 2: 2}  # of each bundle format that is read
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # beside it: latentwire.signature
MAX_MANIFEST_BYTES = 1 << 20
MAX_INPUT_SIDE = 8192  # pixels

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")

Part = Literal["all", "sensor", "server"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: its name in the folder, its sha256 in hex and its size."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the encoder takes: uint8 images (N, height, width, channels), channels in the order "L" or "RGB"."""

    height: int
    width: int
    channels: int
    channel_order: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """One measured operating point: bits are means per image over ``images`` test images, in messages of
    ``images_per_message``; ``accuracy`` and ``share_refined`` are 0..1."""

    model: str
    rate_scale: float
    images: int
    images_per_message: int
    accuracy: float
    share_refined: float
    total_entropy_bits: float
    ideal_bits: float
    payload_bits: float


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """An entropy model of a variant and the range of its rate scale."""

    file: FileEntry
    rate_min: float
    rate_max: float
    rate_default: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One encoder/decoder pair; ``d`` is the latent's width, ``head`` says that the encoder names the anchor."""

    d: int
    head: bool
    encoder: FileEntry
    decoder: FileEntry
    models: dict[str, ModelEntry]
    default_model: str
    table: tuple[TableRow, ...] = ()

    def model(self, name: str | None = None) -> ModelEntry:
        """The entropy model of that name, or the default; UnknownVariantError if there is none."""
        try:
            return self.models[name or self.default_model]
        except KeyError:
            raise UnknownVariantError(f"no entropy model {name!r}; there are {', '.join(self.models)}") from None


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json. ``training`` says how and on what the pair was trained."""

    format_version: int
    model_id: str
    classes: tuple[str, ...]
    input: InputSpec
    default_variant: str
    variants: dict[str, Variant]
    training: dict[str, str | int | float | bool | None] = field(default_factory=dict)

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name, or the default; UnknownVariantError if there is none."""
        try:
            return self.variants[name or self.default_variant]
        except KeyError:
            raise UnknownVariantError(f"no variant {name!r}; there are {', '.join(self.variants)}") from None

    def files(self, part: Part = "all", variants: Collection[str] | None = None) -> list[FileEntry]:
        """The files that a part of the bundle consists of, each once; of these ``variants``, None standing for all."""
        found: dict[str, FileEntry] = {}
        for name in self.variants if variants is None else variants:
            variant = self.variant(name)
            halves = {"all": (variant.encoder, variant.decoder), "sensor": (variant.encoder,)}
            for entry in halves.get(part, (variant.decoder,)):
                found[entry.path] = entry
            for model in variant.models.values():
                found[model.file.path] = model.file
        return list(found.values())


class Bundle:
    """A verified bundle. ``digest`` is the sha256 of manifest.json in hex, which names the bundle on the wire;
    ``sensor_digest`` that of the part which sensor and server must hold alike; ``variants`` are those whose files are
    there, mostly all."""

    def __init__(self, path: Path, manifest: Manifest, digest: str, variants: Collection[str] | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self.sensor_digest = sensor_digest(manifest)
        self.variants = tuple(manifest.variants if variants is None else variants)
        self._parameters = lru_cache(maxsize=16)(self._read_parameters)

    def encoder_path(self, variant: str | None = None) -> Path:
        """The encoder's ONNX file."""
        return self.path / self.manifest.variant(variant).encoder.path

    def decoder_path(self, variant: str | None = None) -> Path:
        """The decoder's ONNX file."""
        return self.path / self.manifest.variant(variant).decoder.path

    def codec_parameters(self, variant: str, model: str) -> CodecParameters:
        """An entropy model's parameters, checked; UnknownVariantError if the bundle has none of that name."""
        return self._parameters(variant, model)

    def _read_parameters(self, variant: str, model: str) -> CodecParameters:
        spec = self.manifest.variant(variant)
        entry = spec.model(model).file
        try:
            with (self.path / entry.path).open("rb") as file:
                content = file.read(MAX_MODEL_BYTES + 1)
        except OSError as error:
            raise BundleCorruptError(f"{self.path / entry.path} cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:  # the folder may have been replaced since it was loaded
            raise BundleCorruptError(f"{self.path / entry.path} was replaced while in use; restart this program")
        payload_format = PAYLOAD_FORMATS[self.manifest.format_version]
        parameters = parameters_from_bytes(content, entry.path, payload_format)
        if parameters.anchors.shape[1] != spec.d:
            raise BundleCorruptError(
                f"{entry.path}: its anchors have {parameters.anchors.shape[1]} entries, not {spec.d}"
            )
        return parameters


def sensor_digest(manifest: Manifest) -> str:
    """sha256 in hex of what a deployed sensor and its server must hold alike (docs/bundle-format.md).

    That is what makes the latent and codes it, and the classes that answers number. The decoder, the measured tables,
    the defaults and the story of the training may differ: a decoder is replaced without touching its sensors.
    """
    variants = {
        name: [v.d, v.head, v.encoder.sha256, {model: entry.file.sha256 for model, entry in v.models.items()}]
        for name, v in manifest.variants.items()
    }
    part = [manifest.format_version, manifest.classes, asdict(manifest.input), variants]
    return hashlib.sha256(json.dumps(part, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_bundle(path: str | Path, part: Part = "all", variants: Collection[str] | None = None) -> Bundle:
    """Load and verify a bundle's part; ``path`` is a folder, or the name of a bundle that ships with Latentwire.

    Files of ``variants`` other than these need not be there; None stands for all.

    Raises BundleNotFoundError, BundleCorruptError or BundleVersionError, each saying which file and what to do.
    """
    folder = _find(path)
    manifest, digest = read_manifest(folder)
    for entry in manifest.files(part, variants):
        verify_file(folder / entry.path, entry)
    return Bundle(folder, manifest, digest, variants)


def shipped_bundles() -> list[str]:
    """Names of the bundles that ship with Latentwire."""
    root = resources.files("latentwire") / "data" / "bundles"
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all: into a folder beside ``path``, then renamed over it.

    ``files`` maps file names to contents and must hold all that the manifest names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        text = json.dumps(asdict(manifest), indent=1, sort_keys=True, allow_nan=False)
        (staging / MANIFEST).write_text(text + "\n")
        staging.chmod(0o755)
        load_bundle(staging)
        if path.exists():
            if not (path / MANIFEST).exists() and any(path.iterdir()):
                raise BundleError(f"{path} is a folder of something else; give another path")
            shutil.rmtree(path)
        staging.rename(path)
    except OSError as error:
        raise BundleError(f"the bundle {path} cannot be written: {error}; what was there is untouched") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_bundle(path)


def file_entry(name: str, content: bytes) -> FileEntry:
    """The manifest's entry for a file."""
    return FileEntry(name, hashlib.sha256(content).hexdigest(), len(content))


def _find(path: str | Path) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if str(path) in shipped_bundles():
        return Path(str(resources.files("latentwire") / "data" / "bundles" / str(path)))
    shipped = ", ".join(shipped_bundles()) or "none"
    raise BundleNotFoundError(f"no bundle at {str(path)!r}: give a bundle folder or a shipped one ({shipped})")


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """A bundle folder's manifest, checked, and its digest; the files it names are not looked at.

    Raises BundleNotFoundError, BundleCorruptError or BundleVersionError.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleCorruptError(f"{path} is too large for a manifest")
        content = path.read_bytes()
    except OSError as error:
        raise BundleNotFoundError(f"{path.parent} is no bundle: {MANIFEST} cannot be read ({error.strerror})") from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: Path | str) -> tuple[Manifest, str]:
    """A manifest, checked, and its digest; ``path`` is for the error: BundleCorruptError or BundleVersionError."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleCorruptError(f"{path} is too large for a manifest")
    try:
        version = msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("format_version", msgspec.Raw(b"null"))
        number = msgspec.json.decode(version)
        if type(number) is not int or number not in PAYLOAD_FORMATS:
            read = " and ".join(map(str, PAYLOAD_FORMATS))
            raise BundleVersionError(
                f"{path}: bundle format version {number!r}; this program reads {read}: export it again"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleCorruptError(f"{path}: {error}") from None
    _check_manifest(path, manifest)
    return manifest, hashlib.sha256(content).hexdigest()


def _check_manifest(path: Path | str, manifest: Manifest) -> None:
    spec = manifest.input
    sides = sorted((spec.height, spec.width))
    if not 1 <= sides[0] <= sides[1] <= MAX_INPUT_SIDE or {"L": 1, "RGB": 3}.get(spec.channel_order) != spec.channels:
        raise BundleCorruptError(f"{path}: the input must be an L or RGB image of 1 to {MAX_INPUT_SIDE} pixels a side")
    if len(manifest.classes) < 2 or manifest.default_variant not in manifest.variants:
        raise BundleCorruptError(f"{path}: it needs two classes or more and the default variant among its variants")
    for name, variant in manifest.variants.items():
        if variant.d < 1 or variant.default_model not in variant.models:
            raise BundleCorruptError(f"{path}: variant {name!r} needs d of at least 1 and its default model")
    for entry in manifest.files():
        if not _FILE_NAME.fullmatch(entry.path) or entry.path in (MANIFEST, SIGNATURE):
            raise BundleCorruptError(f"{path}: {entry.path!r} is not a plain file name")


def verify_file(path: Path, entry: FileEntry) -> None:
    """BundleCorruptError unless ``path`` has the size and sha256 that the manifest's ``entry`` says."""
    try:
        size = path.stat().st_size
        if size != entry.bytes:  # told before a huge file is read
            raise BundleCorruptError(
                f"{path} has {size} bytes, not the manifest's {entry.bytes}; fetch the bundle again"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleCorruptError(f"{path} cannot be read ({error.strerror}); fetch the bundle again") from None
    if digest != entry.sha256:
        raise BundleCorruptError(f"{path} is not the file its manifest names (sha256 differs); fetch the bundle again")

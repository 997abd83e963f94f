"""Signatures of bundles: Ed25519 over the bytes of manifest.json, 64 bytes in manifest.sig beside it.

The manifest holds the sha256 of every other file, so its signature speaks for the whole bundle.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from latentwire.bundle import MANIFEST, SIGNATURE
from latentwire.errors import BundleNotFoundError, SignatureError

if TYPE_CHECKING:  # loaded where a key is used: a sensor that trusts all bundles does without its megabytes
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 1 << 14


def load_public_key(path: Path) -> "Ed25519PublicKey":
    """The key by which bundles are trusted, a PEM file; SignatureError if it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} is no public key in PEM form ({error}); docs/bundle-format.md has how") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} is no Ed25519 key; docs/bundle-format.md has how to make one")
    return key


def load_private_key(path: Path) -> "Ed25519PrivateKey":
    """The key that signs, a PEM file without a password; SignatureError if it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_key_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it needs a password
        raise SignatureError(f"{path} is no private key in PEM form ({error}); docs/bundle-format.md has how") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path} is no Ed25519 key; docs/bundle-format.md has how to make one")
    return key


def check_signature(manifest: bytes, signature: bytes, key: "Ed25519PublicKey", model_id: str) -> None:
    """SignatureError unless ``key`` signed the bytes of ``manifest``; empty ``signature`` stands for none."""
    from cryptography.exceptions import InvalidSignature

    if not signature:
        raise SignatureError(f"bundle {model_id!r} is not signed: latentwire bundle sign PATH --key PRIVATE_KEY")
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise SignatureError(
            f"bundle {model_id!r} is not signed by the key that is trusted here; sign it with that key"
        ) from None


def read_signature(bundle: Path) -> bytes:
    """What lies in the bundle's manifest.sig, at most a byte more than a signature has; empty when there is none."""
    try:
        with (bundle / SIGNATURE).open("rb") as file:
            return file.read(SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SignatureError(f"{bundle / SIGNATURE} cannot be read ({error.strerror})") from None


def sign_bundle(bundle: Path, key: "Ed25519PrivateKey") -> None:
    """Write the bundle's manifest.sig; BundleNotFoundError or SignatureError if that cannot be done."""
    try:
        manifest = (bundle / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleNotFoundError(f"{bundle} is no bundle: {MANIFEST} cannot be read ({error.strerror})") from None
    try:
        (bundle / SIGNATURE).write_bytes(key.sign(manifest))
    except OSError as error:
        raise SignatureError(f"{bundle / SIGNATURE} cannot be written ({error.strerror})") from None


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise SignatureError(f"the key {path} cannot be read ({error.strerror})") from None

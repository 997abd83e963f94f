"""A private certificate authority in a folder, and the certificates it issues: who is who, for TLS.

Keys are EC P-256, in PEM files that only their owner may read. A certificate's role and name are a URI among its
subject's alternative names (``latentwire.identity``); a server's certificate also names its hosts.
"""

import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from latentwire.errors import CertificateError
from latentwire.identity import CA_DAYS, DAYS, SCHEME, Identity

CLOCK_SKEW = timedelta(hours=1)  # a peer's clock may be behind ours
MAX_COMMON_NAME_CHARACTERS = 64  # of X.509
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, as ``latentwire certs show`` tells it: ``identity`` is "authority" for an authority."""

    path: Path
    identity: str
    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime


def make_authority(folder: Path, days: int = CA_DAYS, *, force: bool = False) -> None:
    """Make ``ca.pem`` and ``ca.key``; CertificateError if they are there, unless ``force``, or cannot be written.

    A new authority does not vouch for what the former one issued.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"Latentwire authority {secrets.token_hex(4)}")
    public = key.public_key()
    builder = _builder(subject, subject, public, _end(days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    _write_pair(folder, "ca", builder.sign(key, hashes.SHA256()), key, force)


def issue(
    folder: Path,
    who: Identity,
    hosts: Sequence[str] = (),
    days: int = DAYS,
    *,
    out: Path | None = None,
    force: bool = False,
) -> Path:
    """Make a certificate and its key with the authority in ``folder``, as files in ``out`` or there too.

    ``hosts`` are a server's names and addresses. Returns the certificate's path; its key lies beside it with the
    suffix ``.key``. Raises CertificateError, and ``ValueError`` for a host that is none.
    """
    authority, authority_key = _load_authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(who.uri), *map(_host, hosts)]
    end = min(_end(days), authority.not_valid_after_utc)
    builder = _builder(_name(who.name[:MAX_COMMON_NAME_CHARACTERS]), authority.subject, key.public_key(), end)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if who.role == "server":  # it is also its own health check's client
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    return _write_pair(out or folder, f"{who.role}-{quote(who.name, safe='')}", certificate, key, force)


def describe(path: Path) -> Issued:
    """What a certificate's PEM file says; CertificateError if it is none."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CertificateError(f"{path} is no certificate in PEM form ({error})") from None
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Issued(path, "authority" if _is_authority(certificate) else "nobody", (), start, end)
    ours = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(SCHEME)]
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    hosts = (*names.get_values_for_type(x509.DNSName), *addresses)
    return Issued(path, ", ".join(ours) or "nobody", hosts, start, end)


def write_secret(path: Path, content: bytes, *, force: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all; CertificateError if it is there."""
    _write(path, content, 0o600, force)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except OSError as error:
        raise CertificateError(
            f"{folder} holds no authority ({error.filename}: {error.strerror}): latentwire certs init {folder}"
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key needs a password
        raise CertificateError(f"{folder}/ca.pem or ca.key is not what certs init makes ({error})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(f"{folder}/ca.key is not the key of {folder}/ca.pem: put the right pair there")
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise CertificateError(f"the authority in {folder} has expired: make another in another folder")
    return certificate, key


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _end(days: int) -> datetime:
    if not 1 <= days <= 36500:
        raise ValueError(f"days must be 1 to 36500, not {days}")
    return datetime.now(UTC) + timedelta(days=days)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - CLOCK_SKEW
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(start).not_valid_after(end)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host or not host.isascii() or any(c.isspace() or c in "/:@" for c in host):
        raise ValueError(f"a server's host is a name or an address, without a port, not {host!r}")
    return x509.DNSName(host)


def _write_pair(
    folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, force: bool
) -> Path:
    path, key_path = folder / f"{stem}.pem", folder / f"{stem}.key"
    for each in (path, key_path):
        _refuse_existing(each, force)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"{folder} cannot be made ({error.strerror})") from None
    _write(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600, force)
    _write(path, certificate.public_bytes(Encoding.PEM), 0o644, force)
    return path


def _refuse_existing(path: Path, force: bool) -> None:
    if not force and path.exists():
        raise CertificateError(f"{path} is there already: --force replaces it")


def _write(path: Path, content: bytes, mode: int, force: bool) -> None:
    """In one step, so that a server that reads it anew never sees half of it."""
    _refuse_existing(path, force)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CertificateError(f"{path} cannot be written ({error.strerror})") from None

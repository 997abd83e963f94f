"""TLS between the processes: the files it takes, read anew when they change, and when plain text will do.

A client is a sensor or ``latentwire ctl``. Everything here reads small files of this machine.
"""

import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from latentwire.errors import CertificateError

if TYPE_CHECKING:  # loaded where TLS is used: a sensor in plain text does without its megabytes
    from cryptography import x509

T = TypeVar("T")

MIN_TOKEN_CHARACTERS = 32
WARN_BEFORE_END = timedelta(days=14)
_MAX_FILE_BYTES = 1 << 20

log = logging.getLogger("latentwire.tls")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files: a certificate, with those between it and the authority after it, and its private key."""

    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes]:
        """Key and certificate as gRPC takes them; CertificateError unless they are a pair."""
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        certificates, key = _read(self.certificate), _read(self.key)
        try:
            first = x509.load_pem_x509_certificates(certificates)[0]
        except ValueError as error:
            raise CertificateError(f"{self.certificate} is no certificate in PEM form ({error})") from None
        try:
            private = load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it needs a password
            raise CertificateError(f"{self.key} is no private key in PEM form without a password ({error})") from None
        if private.public_key() != first.public_key():
            raise CertificateError(f"{self.key} is not the key of {self.certificate}")
        _warn_of_end(self.certificate, first)
        return key, certificates


@dataclass(frozen=True, slots=True)
class Access:
    """How a client reaches its server and says who it is; a bad setting raises ``ValueError``.

    Attributes:
        authority: PEM file of the authority that a server's certificate must come from; None is plain text.
        pair: this client's own certificate.
        token: this client's token; it goes out with every call.
        insecure: take plain text to other machines too.
    """

    authority: Path | None = None
    pair: KeyPair | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    @classmethod
    def of_settings(
        cls,
        authority: Path | None,
        certificate: Path | None,
        key: Path | None,
        token: str | None = None,
        *,
        insecure: bool = False,
    ) -> "Access":
        """From settings as the command line has them."""
        return cls(authority, pair_of(certificate, key), token, insecure)

    def __post_init__(self) -> None:
        """Check what can be checked without a server's address."""
        if self.pair is not None and self.authority is None:
            raise ValueError("tls_cert has no use without tls_ca: give the authority that the server's comes from")
        if self.token is not None:
            check_token(self.token)

    def check(self, server: str) -> None:
        """``ValueError`` if ``server``, a HOST:PORT, must not be reached like this."""
        if self.authority is not None or is_loopback(server):
            return
        if not self.insecure:
            raise ValueError(
                f"{server} is another machine: give tls_ca, or insecure to send everything in plain text that "
                "anyone on the way can read and change"
            )
        if self.token is not None:
            raise ValueError(f"a token is not sent in plain text to {server}: give tls_ca")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes out with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def credentials(self) -> "Reloaded[grpc.ChannelCredentials] | None":
        """For the channel, from the files as they are whenever it is asked for; None is plain text."""
        if self.authority is None:
            return None
        authority, pair = self.authority, self.pair
        files = [authority] if pair is None else [authority, pair.certificate, pair.key]

        def read() -> grpc.ChannelCredentials:
            key, certificate = (None, None) if pair is None else pair.read()
            return grpc.ssl_channel_credentials(read_authority(authority), key, certificate)

        return Reloaded(files, read)


class Reloaded(Generic[T]):
    """What is made from files, made anew when one of them has changed. Threads may share it."""

    def __init__(self, files: Sequence[Path], make: Callable[[], T]) -> None:
        """``make`` reads them; it raises CertificateError for what cannot be used, now for the first time."""
        self._files = files
        self._make = make
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._made = make()

    def get(self) -> T:
        """From the files as they are now; if they cannot be used, as they were, and that is logged once."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                names = ", ".join(map(str, self._files))
                try:
                    self._made = self._make()
                    log.info("read anew: %s", names)
                except CertificateError as error:
                    log.error("%s; going on with what was read before from %s", error, names)
            return self._made

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp_of(path) for path in self._files]


def pair_of(certificate: Path | None, key: Path | None) -> KeyPair | None:
    """Both or none; ``ValueError`` otherwise."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("tls_cert and tls_key go together: give both, or none")
    return KeyPair(certificate, key)


def read_authority(path: Path) -> bytes:
    """PEM of one or several authorities; CertificateError if it is none."""
    from cryptography import x509

    content = _read(path)
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateError(f"{path} is no certificate in PEM form ({error})") from None
    return content


def read_token(path: Path) -> str:
    """A client's token, from a file of one line; CertificateError if it cannot be one."""
    try:
        token = _read(path).decode("ascii").strip()
        check_token(token)
    except ValueError:  # UnicodeDecodeError too; neither must show what was read
        raise CertificateError(f"{path} holds no token: make one with latentwire certs token") from None
    return token


def check_token(token: str) -> None:
    """``ValueError``, which does not show it, for what is no token."""
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"a token has at least {MIN_TOKEN_CHARACTERS} characters of ASCII and no blanks")


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT stays on this machine, by its looks: no name but localhost does."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _warn_of_end(path: Path, certificate: "x509.Certificate") -> None:
    end = certificate.not_valid_after_utc
    if end - datetime.now(UTC) < WARN_BEFORE_END:
        log.warning("the certificate %s ends at %s: put another in its place", path, end.isoformat())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read ({error.strerror})") from None


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""Certificates for tests: one authority's for everybody, and those that must be refused."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

from latentwire import certificates
from latentwire.identity import Identity
from latentwire.tls import Access, KeyPair

CAM = Identity("sensor", "cam")
ADMIN = Identity("admin", "ops")
SERVER = Identity("server", "localhost")


@dataclass(frozen=True)
class Authority:
    """A folder with an authority in it."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        """Another authority, with a certificate for CAM, ADMIN and a server on this machine each."""
        certificates.make_authority(folder)
        made = cls(folder)
        certificates.issue(folder, SERVER, certificates.LOCAL_HOSTS)
        for who in (CAM, ADMIN):
            certificates.issue(folder, who)
        return made

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def pair(self, who: Identity) -> KeyPair:
        """A certificate that it has issued."""
        return KeyPair(self.folder / f"{who.role}-{who.name}.pem", self.folder / f"{who.role}-{who.name}.key")

    def expired(self, who: Identity) -> KeyPair:
        """A certificate that ended a minute ago."""
        out = self.folder / "expired"
        with mock.patch.object(certificates, "_end", lambda days: datetime.now(UTC) - timedelta(minutes=1)):
            path = certificates.issue(self.folder, who, out=out, force=True)
        return KeyPair(path, path.with_suffix(".key"))

    def access(self, pair: KeyPair | None, token: str | None = None) -> Access:
        """A client that trusts this authority's servers."""
        return Access(self.ca, pair, token)

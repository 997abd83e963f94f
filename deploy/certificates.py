"""The service `certs` of docker-compose.yml: an authority, and for each role a folder with its own keys and no other's.

::

    /pki/authority   ca.pem, ca.key                              mounted nowhere else
    /pki/server      ca.pem, server-server.pem, .key             the server's /tls
    /pki/sensors     ca.pem, sensor-cam-1.pem, .key, …           the /tls of every replica of `sensor`
    /pki/camera      ca.pem, sensor-camera.pem, .key             the /tls of `camera`
    /pki/admin       ca.pem, admin-admin.pem, .key               the /tls of `ctl`

What is there stays, but for certificates of another authority, for other hosts, or good for less than RENEW_BEFORE.
Settings: NAME_PREFIX and NAMES (the sensors cam-1 to cam-8), SERVER_HOSTS (further names of the server, by commas).
"""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from latentwire.certificates import LOCAL_HOSTS, describe, issue, make_authority
from latentwire.identity import Identity

ROOT = Path("/pki")
RENEW_BEFORE = timedelta(days=60)


def certify(authority: Path, folder: Path, who: Identity, hosts: tuple[str, ...] = ()) -> None:
    """See to it that ``folder`` holds a certificate for ``who`` that will do, and its key."""
    path = folder / f"{who.role}-{who.name}.pem"
    if path.exists():
        there = describe(path)
        if there.not_after - datetime.now(UTC) > RENEW_BEFORE and set(there.hosts) == set(hosts):
            return
    print(issue(authority, who, hosts, out=folder, force=True), flush=True)


def vouch(authority: Path, folder: Path) -> None:
    """See to it that ``folder`` holds the authority's certificate, and none that another authority issued."""
    ours, theirs = authority / "ca.pem", folder / "ca.pem"
    if theirs.exists() and theirs.read_bytes() == ours.read_bytes():
        return
    for path in (*folder.glob("*.pem"), *folder.glob("*.key")):
        path.unlink()
    shutil.copyfile(ours, theirs)


def main(root: Path = ROOT) -> None:
    """Make what is missing."""
    authority = root / "authority"
    if not (authority / "ca.pem").exists():
        make_authority(authority)
    for name in ("server", "sensors", "camera", "admin"):
        vouch(authority, root / name)
    further = [host.strip() for host in os.environ.get("SERVER_HOSTS", "").split(",") if host.strip()]
    certify(authority, root / "server", Identity("server", "server"), ("server", *further, *LOCAL_HOSTS))
    prefix, names = os.environ.get("NAME_PREFIX", "cam"), int(os.environ.get("NAMES", "8"))
    for number in range(1, names + 1):
        certify(authority, root / "sensors", Identity("sensor", f"{prefix}-{number}"))
    certify(authority, root / "camera", Identity("sensor", "camera"))
    certify(authority, root / "admin", Identity("admin", "admin"))


if __name__ == "__main__":
    main()

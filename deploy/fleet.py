"""Take a name that no other container has, then become `latentwire sensor` under it.

Replicas of one service have the same settings and volumes, but a name on the server, a spool and a certificate are one
sensor's. This takes the first free of the names cam-1 to cam-8 (NAME_PREFIX, NAMES), puts it for `{name}` into the
LATENTWIRE_SENSOR_… settings, and keeps it by a lock on a file of the shared volume, which the kernel opens when the
process ends, however it ends. A container that comes back asks first for the name it had, and finds its spool.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path

FOLDER = Path("/var/lib/latentwire")


def take(names: list[str], folder: Path, me: str) -> str | None:
    """The first free name, the one that ``me`` had last before all others; None if each is taken.

    It stays taken for as long as this process runs, or what it becomes.
    """
    places = {name: folder / f"{name}.place" for name in names}
    for name in sorted(names, key=lambda name: not (places[name].exists() and places[name].read_text() == me)):
        place = os.open(places[name], os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(place)
            continue
        os.ftruncate(place, 0)
        os.pwrite(place, me.encode(), 0)
        os.set_inheritable(place, True)
        return name
    return None


def main() -> None:
    """Take a name and start the sensor; ends with an error if there is none left."""
    prefix, names = os.environ.get("NAME_PREFIX", "cam"), int(os.environ.get("NAMES", "8"))
    name = take([f"{prefix}-{number}" for number in range(1, names + 1)], FOLDER, socket.gethostname())
    if name is None:
        sys.exit(f"{prefix}-1 to {prefix}-{names} are all taken: raise NAMES, and run the service certs anew")
    for key, value in os.environ.items():
        if key.startswith("LATENTWIRE_SENSOR_"):
            os.environ[key] = value.replace("{name}", name)
    os.environ["LATENTWIRE_SENSOR_NAME"] = name
    os.execvp("latentwire", ["latentwire", "sensor", *sys.argv[1:]])


if __name__ == "__main__":
    main()

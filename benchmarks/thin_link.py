"""A link made thin: a veth pair between two network namespaces, its way up behind a token bucket (``tc … tbf``).

Needs root and iproute2. Where that is not to be had, ``why_not`` says why.
"""

import os
import re
import shutil
import subprocess
from types import TracebackType

SERVER, SENSOR = "10.213.7.1", "10.213.7.2"
MTU = (
    576  # the classic of thin links; a bucket must hold a whole packet, and what it holds is sent at once after a pause
)
BURST_BYTES = 600
QUEUE_BYTES = 8000  # a second of 64 kbit/s, half a minute of 2: a sender that fills it will see its images age


def why_not() -> str | None:
    """Why no namespaces can be made here; None when they can."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(["ip", "netns", "add", _name("try")], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    _run("ip", "netns", "delete", _name("try"))
    return None


class ThinLink:
    """The two namespaces, while in its ``with`` block; what runs in one of them is prefixed with ``at(…)``."""

    def __init__(self, bits_per_s: float) -> None:
        """The way from sensor to server carries so much; the way back is not limited."""
        self._first = bits_per_s

    def __enter__(self) -> "ThinLink":
        try:
            for side in ("server", "sensor"):
                _run("ip", "netns", "add", _name(side))
                _run("ip", "-n", _name(side), "link", "set", "lo", "up")
            peer = ("peer", "name", "thin", "netns", _name("sensor"))
            _run("ip", "link", "add", "thin", "netns", _name("server"), "type", "veth", *peer)
            for side, address in (("server", SERVER), ("sensor", SENSOR)):
                _run("ip", "-n", _name(side), "address", "add", f"{address}/24", "dev", "thin")
                _run("ip", "-n", _name(side), "link", "set", "thin", "mtu", str(MTU), "up")
            self._limit("add", self._first)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in ("server", "sensor"):
            subprocess.run(["ip", "netns", "delete", _name(side)], capture_output=True, check=False)

    @staticmethod
    def at(side: str) -> list[str]:
        """What a command in that namespace begins with."""
        return ["ip", "netns", "exec", _name(side)]

    def set_rate(self, bits_per_s: float) -> None:
        """From now on."""
        self._limit("change", bits_per_s)

    def counted(self) -> tuple[int, int]:
        """Bytes that went up so far, Ethernet headers in, and those that wait in the bucket's queue."""
        said = _run(*self.at("sensor"), "tc", "-s", "qdisc", "show", "dev", "thin", "root")
        sent, waiting = re.search(r"Sent (\d+) bytes", said), re.search(r"backlog (\d+)(K?)b", said)
        assert sent is not None and waiting is not None, said
        return int(sent[1]), int(waiting[1]) * (1024 if waiting[2] else 1)

    def _limit(self, verb: str, bits_per_s: float) -> None:
        bucket = ("rate", f"{round(bits_per_s)}bit", "burst", str(BURST_BYTES), "limit", str(QUEUE_BYTES))
        _run(*self.at("sensor"), "tc", "qdisc", verb, "dev", "thin", "root", "tbf", *bucket)


def _name(side: str) -> str:
    return f"latentwire-{os.getpid()}-{side}"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

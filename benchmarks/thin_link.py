"""A link made thin: a veth pair between two network namespaces, its way up behind a token bucket (``tc … tbf``).

Needs root and iproute2. Where that is not to be had, ``why_not`` says why, and ``RelayLink`` is something like it.
"""

import os
import re
import shutil
import subprocess
import time
from types import TracebackType

from latentwire.relay import CountingRelay

SERVER, SENSOR, PORT = "10.213.7.1", "10.213.7.2", 50051
# Of the way up: the classic of thin links. A bucket must hold a packet, and sends what it holds at once after a pause.
MTU = 576
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
    """The two namespaces, while in its ``with`` block; what runs in one of them is prefixed with ``at(…)``.

    The server listens on ``listen``.
    """

    listen = f"{SERVER}:{PORT}"

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
                _run("ip", "-n", _name(side), "link", "set", "thin", "up")
            # By what the server says it takes, the sensor sends no larger packets; the way down is an ordinary one.
            _run(
                "ip", "-n", _name("server"), "route", "replace", f"{SENSOR}/32", "dev", "thin", "advmss", str(MTU - 40)
            )
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

    @staticmethod
    def reached(port: int) -> str:
        """Where the sensor finds the server that listens on ``port``."""
        return f"{SERVER}:{port}"

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


class RelayLink:
    """Something like it without root: a relay that lets through no more; headers of IP and TCP do not count."""

    listen = "127.0.0.1:0"

    def __init__(self, bits_per_s: float) -> None:
        """The way from sensor to server carries so much."""
        self._bits_per_s = bits_per_s
        self._relay: CountingRelay | None = None

    def __enter__(self) -> "RelayLink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._relay is not None:
            self._relay.__exit__(kind, error, trace)

    @staticmethod
    def at(side: str) -> list[str]:
        """Nothing: both run here."""
        return []

    def reached(self, port: int) -> str:
        """Where the sensor finds the server that listens on ``port``."""
        self._relay = CountingRelay("127.0.0.1", port, self._bits_per_s).__enter__()
        return f"127.0.0.1:{self._relay.port}"

    def set_rate(self, bits_per_s: float) -> None:
        """From now on."""
        assert self._relay is not None, "the server is reached first"
        self._relay.up_bits_per_s = bits_per_s

    def counted(self) -> tuple[int, int]:
        """Bytes that went up so far; what waits is not known."""
        assert self._relay is not None, "the server is reached first"
        return self._relay.up_bytes_at(time.monotonic()), 0


def _name(side: str) -> str:
    return f"latentwire-{os.getpid()}-{side}"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

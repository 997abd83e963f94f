"""How many calls may be open at once, in all and of one peer: over that a peer is refused by name, before any work."""

from collections import Counter
from contextlib import ExitStack

from latentwire.errors import ServerFullError
from latentwire.identity import Identity

MAX_OF_A_SENSOR = 16  # its stream, the one that takes this one's place, and what it asks of the bundles


class OpenCalls:
    """Counts them. A peer is an identity where it has one, else the address that it calls from."""

    def __init__(self, most: int, most_a_peer: int) -> None:
        """See ``ServerConfig.max_streams`` and ``max_streams_a_peer``; a sensor's identity has fewer."""
        self._most = most
        self._most_a_peer = most_a_peer
        self._open: Counter[str] = Counter()
        self._all = 0

    def one_more(self, peer: str, who: Identity | None) -> ExitStack:
        """Count a call, until what is returned is closed; raises ServerFullError. ``peer`` is gRPC's word for it."""
        name, most = peer.rpartition(":")[0] or peer, self._most_a_peer
        if who is not None:
            name = str(who)
            most = min(most, MAX_OF_A_SENSOR) if who.role == "sensor" else most
        if self._all >= self._most:
            raise ServerFullError(f"{self._all} streams and calls are open, as many as this server takes: come again")
        if self._open[name] >= most:
            raise ServerFullError(f"you have {most} streams and calls open, as many as one peer may: close some")
        self._all += 1
        self._open[name] += 1
        counted = ExitStack()
        counted.callback(self._one_less, name)
        return counted

    def _one_less(self, name: str) -> None:
        self._all -= 1
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

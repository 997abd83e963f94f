"""The gRPC channel, and what a stream's end means."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence

import grpc

from latentwire.errors import LatentwireError, ProtocolError, error_named
from latentwire.tls import Access, Reloaded

_MAX_RECEIVE_BYTES = 4 << 20

# A fresh subchannel for every attempt: the pauses between attempts are ours, not gRPC's.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
    ("grpc.http2.max_pings_without_data", 0),
    # No pings to size the receive window by: on a thin link they cost as much as the messages, and the window is ample.
    ("grpc.http2.bdp_probe", 0),
    # Of a name's several addresses any one will do: so that sensors spread over the servers behind it, and do not all
    # come back to one that is going away.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]})),
)

_FATAL = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,  # it lacks our variant
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


class Servers:
    """The servers that will do, each HOST:PORT, and the one whose turn it is."""

    def __init__(self, addresses: Sequence[str], first: int = 0) -> None:
        """``first`` is the place of the one to begin with."""
        self._addresses = tuple(addresses)
        self._place = first

    @property
    def now(self) -> str:
        """The one to use now."""
        return self._addresses[self._place]

    def move(self) -> None:
        """The next one's turn; where there is only one, it stays that one's."""
        self._place = (self._place + 1) % len(self._addresses)


class Dialer:
    """Opens channels to the server whose turn it is; every call on them carries ``metadata``."""

    def __init__(self, servers: Servers, access: Access) -> None:
        """Reads files; raises CertificateError if they cannot be used."""
        self.servers = servers
        self.metadata = access.metadata
        self._credentials: Reloaded[grpc.ChannelCredentials] | None = access.credentials()

    async def open(self, keepalive_s: float = 20.0) -> grpc.aio.Channel:
        """A channel, with the certificates as they are on disk now; nothing is connected yet.

        While a stream is open and silent it pings every ``keepalive_s``, and waits as long again for the answer: a
        link that died without a word (a mast's modem) is noticed within twice that.
        """
        keepalive_ms = round(1000 * keepalive_s)
        # The last is how long a ping's answer is waited for, a minute unless told, whatever the one before it says.
        names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
        options = (*_OPTIONS, *((name, keepalive_ms) for name in names))
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.servers.now, options=options)
        return grpc.aio.secure_channel(
            self.servers.now, await asyncio.to_thread(self._credentials.get), options=options
        )


def refusal(error: grpc.aio.AioRpcError, server: str) -> LatentwireError | None:
    """The error by which the server refused this sensor for good; None when trying again may help.

    A refusal's details are ``ErrorName: message``; the name is that of a class in ``latentwire.errors``.
    """
    if error.code() not in _FATAL:
        return None
    details = " ".join((error.details() or "").split())[:1024]
    if (named := error_named(details)) is not None:
        return named
    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolError(f"{server} is no Latentwire server ({details}); check the address")
    return ProtocolError(f"the server refused the stream: {error.code().name} {details}")


class Backoff:
    """Pauses between attempts.

    Doubled each time up to a ceiling, and jittered, so that sensors spread out.
    """

    def __init__(
        self,
        first_s: float = 0.1,
        ceiling_s: float = 10.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s = first_s
        self._ceiling_s = ceiling_s
        self._uniform = uniform
        self._bound_s = first_s

    def reset(self) -> None:
        """The link works: begin anew after the next failure."""
        self._bound_s = self._first_s

    def next_s(self) -> float:
        """Seconds to wait now: between half the bound and the bound."""
        bound_s = min(self._bound_s, self._ceiling_s)
        self._bound_s = min(2 * self._bound_s, self._ceiling_s)
        return self._uniform(bound_s / 2, bound_s)

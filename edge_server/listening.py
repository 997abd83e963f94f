"""Taking the port, with an error that says what is in the way."""

import socket

import grpc

from edge_server.config import parse_address
from latentwire.errors import ListenError


def add_port(server: grpc.aio.Server, listen: str) -> int:
    """Have ``server`` listen on ``HOST:PORT`` and return the port; may take a name look-up. Raises ListenError."""
    host, port = parse_address(listen)
    try:
        _try(host.strip("[]"), port)
        return server.add_insecure_port(listen)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ListenError(
            f"cannot listen on {listen}: {reason}; stop what listens there, or give another --listen HOST:PORT "
            "with an address of this machine (port 0 takes a free port)"
        ) from error


def _try(host: str, port: int) -> None:
    """Bind as gRPC is about to, because it says only that it failed, and prints more than we would; OSError."""
    failed: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                failed = error
                continue
        return  # one of the host's addresses is enough, for gRPC too
    if failed is not None:
        raise failed

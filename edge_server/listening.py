"""Taking the port, with an error that says what is in the way; and what peers on it are known by."""

import socket
from pathlib import Path

import grpc

from edge_server.config import ServerConfig, parse_address
from edge_server.identity import Identities, server_credentials, tokens_from
from latentwire.errors import ListenError
from latentwire.tls import pair_of


def check_free(listen: str) -> None:
    """Raise ListenError if ``HOST:PORT`` cannot be listened on now; may take a name look-up.

    Asked before a bundle is loaded, and because gRPC would only say that it failed, and print more than we do.
    """
    host, port = parse_address(listen)
    reasons: list[str] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                except OSError as error:
                    reasons.append(error.strerror or str(error))
                    continue
            return  # one of the host's addresses is enough, for gRPC too
    except OSError as error:  # the look-up
        reasons.append(error.strerror or str(error))
    raise _cannot(listen, reasons[0])


def identities_of(config: ServerConfig) -> Identities:
    """What peers are known by; reads a file. Raises CertificateError."""
    return Identities(config.tls_ca is not None, None if config.tokens is None else tokens_from(Path(config.tokens)))


def credentials_of(config: ServerConfig) -> grpc.ServerCredentials | None:
    """For the port; None is plain text. Reads files. Raises CertificateError."""
    pair = pair_of(config.tls_cert, config.tls_key)
    return None if pair is None else server_credentials(pair, config.tls_ca)


def add_port(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    """Have ``server`` listen on ``HOST:PORT`` and return the port; raises ListenError."""
    try:
        if credentials is not None:
            return server.add_secure_port(listen, credentials)
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise _cannot(listen, str(error)) from error


def _cannot(listen: str, reason: str) -> ListenError:
    return ListenError(
        f"cannot listen on {listen}: {reason}; stop what listens there, or give another --listen HOST:PORT "
        "with an address of this machine (port 0 takes a free port)"
    )

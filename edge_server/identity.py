"""Who a call comes from: by the certificate of its connection, or by the token it carries."""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from latentwire.errors import CertificateError, NotAuthenticatedError
from latentwire.identity import SCHEME, Identity
from latentwire.tls import KeyPair, Reloaded, read_authority

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Context = grpc.aio.ServicerContext[Any, Any]
    Tokens = Mapping[bytes, tuple[bytes, Identity]]

MAX_TOKENS_BYTES = 64 << 20  # 300,000 sensors
_PREFIX_BYTES = 8


@dataclass(frozen=True, slots=True)
class Identities:
    """What peers are known by: certificates, tokens, or nothing at all, and then everyone may do everything."""

    certificates: bool = False
    tokens: "Reloaded[Tokens] | None" = None

    async def of(self, context: "Context") -> Identity | None:
        """Who calls, None where nobody is asked; raises NotAuthenticatedError."""
        if self.certificates:
            return _by_certificate(context)
        if self.tokens is None:
            return None
        return _by_token(context, await asyncio.to_thread(self.tokens.get))


def server_credentials(pair: KeyPair, authority: Path | None) -> grpc.ServerCredentials:
    """Credentials that take up new files with the next connection; CertificateError if the present ones are bad.

    With an ``authority``, every peer must show a certificate of it.
    """
    files = [pair.certificate, pair.key] if authority is None else [pair.certificate, pair.key, authority]

    def read() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [pair.read()], None if authority is None else read_authority(authority)
        )

    reloaded = Reloaded(files, read)
    # gRPC calls it in threads of its own, before every handshake
    return grpc.dynamic_ssl_server_credentials(reloaded.get(), reloaded.get, authority is not None)


def tokens_from(path: Path) -> "Reloaded[Tokens]":
    """A tokens file, read anew when it changes; CertificateError if it cannot be used now."""
    return Reloaded([path], lambda: _read_tokens(path))


def _by_certificate(context: "Context") -> Identity:
    """The connection's certificate is one of our authority's: gRPC has verified it."""
    said = [uri.decode("utf-8", "replace") for uri in context.auth_context().get("peer_uri", ())]
    ours = [uri for uri in said if uri.startswith(SCHEME)]
    if len(ours) != 1:
        raise NotAuthenticatedError(f"the certificate names {len(ours)} identities ({SCHEME}ROLE/NAME), not one")
    try:
        return Identity.of_uri(ours[0])
    except ValueError as error:
        raise NotAuthenticatedError(f"the certificate's identity cannot be used: {error}") from None


def _by_token(context: "Context", tokens: "Tokens") -> Identity:
    metadata = context.invocation_metadata() or ()
    said = [value for key, value in metadata if key == "authorization"]
    if not said:
        raise NotAuthenticatedError("the call carries no token")
    scheme, _, token = str(said[0]).partition(" ")
    if len(said) > 1 or scheme.lower() != "bearer":
        raise NotAuthenticatedError("the call's authorization is no one bearer token")
    digest = hashlib.sha256(token.encode()).digest()
    # Where it is looked for tells a watching peer some bytes of a hash, of no use; the whole is compared in equal time.
    known, who = tokens.get(digest[:_PREFIX_BYTES], (b"", None))
    if not hmac.compare_digest(known, digest) or who is None:
        raise NotAuthenticatedError("the call carries a token that is not in the tokens file")
    return who


def _read_tokens(path: Path) -> "Tokens":
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKENS_BYTES).decode()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CertificateError(f"{path} is no tokens file: lines of ROLE/NAME and the token's hash") from None
    tokens: dict[bytes, tuple[bytes, Identity]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            uri, written = words
            digest = bytes.fromhex(written.removeprefix("sha256:"))
            who = Identity.of_uri(uri)
        except ValueError:  # and it does not show the line, which may hold a token by mistake
            digest = b""
        if len(digest) != hashlib.sha256().digest_size or not written.startswith("sha256:"):
            raise CertificateError(f"{path}, line {number}: {SCHEME}ROLE/NAME sha256:HEX is wanted; see certs token")
        if tokens.setdefault(digest[:_PREFIX_BYTES], (digest, who)) != (digest, who):
            raise CertificateError(f"{path}, line {number}: this token is another's too; make one for each")
    return tokens

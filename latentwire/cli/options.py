"""Options that several commands take, and how wrong use is told."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentwire.errors import LatentwireError

if TYPE_CHECKING:
    from latentwire.tls import Access

BundleOption = Annotated[str, typer.Option("--bundle", help="A bundle folder, or the name of a shipped one.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="LATENTWIRE_DATA", help="Where data sets lie."),
]

TlsCa = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of the authority that the peer's certificate must come from.")
]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM file of the own certificate.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its private key.")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="File of the token that the server knows this process by.")
]
Traces = Annotated[
    str | None,
    typer.Option(help="Where messages' traces go: OTLP by gRPC at http://HOST:PORT, or a file of JSON lines."),
]
TraceShare = Annotated[float, typer.Option(help="Share of the messages that are traced, the same on both sides.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Take plain text to other machines: anyone may read it.")]


def access_of(
    command: str, ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None, insecure: bool
) -> "Access":
    """How ``command`` reaches its server; its token may also be in the environment: LATENTWIRE_<COMMAND>_TOKEN."""
    from latentwire.tls import Access, read_token  # with gRPC, which most commands do without

    token = os.environ.get(f"LATENTWIRE_{command.upper()}_TOKEN") or None
    if token_file is not None:
        token = read_token(token_file)
    return Access.of_settings(ca, cert, key, token, insecure=insecure)


@contextmanager
def wrong_use() -> Iterator[None]:
    """A setting that a config class refuses is wrong use: exit status 2."""
    try:
        yield
    except LatentwireError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

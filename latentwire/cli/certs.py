"""``latentwire certs``: a private authority, its certificates, and tokens."""

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latentwire.cli.options import wrong_use
from latentwire.errors import CertificateError
from latentwire.identity import CA_DAYS, DAYS, Identity, Role

TOKEN_BYTES = 32

app = typer.Typer(no_args_is_help=True, help="Make the certificates and tokens that server, sensors and admins need.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's folder; keep it where nobody else reads.")]
Hosts = Annotated[
    list[str] | None, typer.Option("--server", help="A server's host name or address; several for the same server.")
]
Sensors = Annotated[list[str] | None, typer.Option("--sensor", help="A sensor's name; several times for several.")]
Admins = Annotated[list[str] | None, typer.Option("--admin", help="An admin's name; several times for several.")]
Days = Annotated[int, typer.Option(min=1, max=36500, help="How long the certificates are good.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


@app.command()
def init(
    folder: Folder,
    server: Hosts = None,
    sensor: Sensors = None,
    admin: Admins = None,
    days: Days = DAYS,
    ca_days: Annotated[int, typer.Option(min=1, max=36500, help="How long the authority is good.")] = CA_DAYS,
    force: Force = False,
) -> None:
    """Make an authority, and certificates for a server, sensors and admins.

    Default: a server on this machine, a sensor 'sensor' and an admin 'admin'.
    """
    from latentwire.certificates import LOCAL_HOSTS, make_authority

    with wrong_use():
        make_authority(folder, ca_days, force=force)
        print(folder / "ca.pem")
        hosts = list(dict.fromkeys([*(server or ()), *LOCAL_HOSTS]))
        _issue(folder, hosts, sensor or ["sensor"], admin or ["admin"], days, None, force)


@app.command()
def issue(
    folder: Folder,
    server: Hosts = None,
    sensor: Sensors = None,
    admin: Admins = None,
    days: Days = DAYS,
    out: Annotated[Path | None, typer.Option(help="Folder to put them in; default: DIR.")] = None,
    force: Force = False,
) -> None:
    """Issue further certificates of the authority in DIR, or, with --force, others in place of those there."""
    with wrong_use():
        if not (server or sensor or admin):
            raise ValueError("say for whom: --server HOST, --sensor NAME or --admin NAME")
        _issue(folder, server or [], sensor or [], admin or [], days, out, force)


@app.command()
def show(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Certificates, or folders of them.")],
) -> None:
    """Show who certificates are for, and until when."""
    from latentwire.certificates import describe

    files = [file for path in paths for file in (sorted(path.glob("*.pem")) if path.is_dir() else [path])]
    if not files:
        raise CertificateError("there is no certificate (*.pem); make some with latentwire certs init")
    table = Table("file", "identity", "hosts", "good until", "days left")
    table.columns[0].overflow = table.columns[1].overflow = "fold"  # whole, to be copied
    for issued in map(describe, files):
        left = (issued.not_after - datetime.now(UTC)).days
        until = f"{issued.not_after:%Y-%m-%d}"
        table.add_row(str(issued.path), issued.identity, ", ".join(issued.hosts), until, str(left))
    Console().print(table)


@app.command()
def token(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the token goes; only its owner may read it.")],
    sensor: Annotated[str | None, typer.Option(help="It is this sensor's.")] = None,
    admin: Annotated[str | None, typer.Option(help="It is this admin's.")] = None,
    force: Force = False,
) -> None:
    """Make a token for a sensor or an admin; prints the line that the server's tokens file needs."""
    from latentwire.certificates import write_secret

    with wrong_use():
        if (sensor is None) == (admin is None):
            raise ValueError("say whose: --sensor NAME or --admin NAME")
        who = Identity("sensor", sensor) if sensor is not None else Identity("admin", admin or "")
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        write_secret(file, f"{secret}\n".encode(), force=force)
    print(f"{who.uri} sha256:{hashlib.sha256(secret.encode()).hexdigest()}")


def _issue(
    folder: Path, hosts: list[str], sensors: list[str], admins: list[str], days: int, out: Path | None, force: bool
) -> None:
    from latentwire.certificates import issue as issue_one

    wanted: list[tuple[Role, str, list[str]]] = [("server", hosts[0], hosts)] if hosts else []
    wanted += [("sensor", name, []) for name in sensors]
    wanted += [("admin", name, []) for name in admins]
    for role, name, its_hosts in wanted:
        print(issue_one(folder, Identity(role, name), its_hosts, days, out=out, force=force))

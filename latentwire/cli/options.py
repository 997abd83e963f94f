"""Options that several commands take, and how wrong use is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from latentwire.errors import LatentwireError

BundleOption = Annotated[str, typer.Option("--bundle", help="A bundle folder, or the name of a shipped one.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="LATENTWIRE_DATA", help="Where data sets lie."),
]


@contextmanager
def wrong_use() -> Iterator[None]:
    """A setting that a config class refuses is wrong use: exit status 2."""
    try:
        yield
    except LatentwireError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

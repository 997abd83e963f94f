"""``latentwire bundle``, and the table of measured operating points."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latentwire.bundle import TableRow, load_bundle

app = typer.Typer(no_args_is_help=True, help="Look at model bundles.")
PathArgument = Annotated[str, typer.Argument(help="A bundle folder, or a shipped bundle's name.")]


@app.command("show")
def bundle_show(path: PathArgument) -> None:
    """Print what a bundle holds and what its knob was measured to do."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    spec = manifest.input
    console = Console(highlight=False)
    console.print(f"[bold]{manifest.model_id}[/]  format {manifest.format_version}  {bundle.path}")
    console.print(f"input {spec.height}x{spec.width}x{spec.channels} ({spec.channel_order})")
    console.print(
        f"{len(manifest.classes)} classes: {', '.join(manifest.classes[:12])}" + " ..." * (len(manifest.classes) > 12)
    )
    for key, value in manifest.training.items():
        console.print(f"{key}: {value}")
    for name, variant in manifest.variants.items():
        default = " (default)" if name == manifest.default_variant else ""
        console.print(f"\n[bold]variant {name}[/]{default}: d = {variant.d}, default model {variant.default_model}")
        for entry in (variant.encoder, variant.decoder):
            console.print(f"  {entry.path}  {entry.bytes:,} bytes  sha256 {entry.sha256[:16]}…")
        console.print(measured_table(variant.table))


@app.command("sign")
def bundle_sign(
    path: Annotated[Path, typer.Argument(help="A bundle folder.")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key, a PEM file without a password.")],
) -> None:
    """Check a bundle and write its manifest.sig, by which sensors that have the public key know it."""
    from latentwire.signature import load_private_key, sign_bundle

    private = load_private_key(key)
    bundle = load_bundle(path)
    sign_bundle(bundle.path, private)
    print(f"{bundle.path}: signed bundle {bundle.digest}")


@app.command("verify")
def bundle_verify(
    path: PathArgument,
    key: Annotated[Path | None, typer.Option(help="Ed25519 public key (PEM) that must have signed it.")] = None,
) -> None:
    """Check every file against the manifest and derive tables over the whole range of every knob."""
    import numpy as np

    from latentwire.operating_point import OperatingPoint

    bundle = load_bundle(path)
    if key is not None:
        from latentwire.bundle import MANIFEST
        from latentwire.signature import check_signature, load_public_key, read_signature

        manifest = (bundle.path / MANIFEST).read_bytes()
        check_signature(manifest, read_signature(bundle.path), load_public_key(key), bundle.manifest.model_id)
        print(f"{bundle.path}: signed by {key}")
    for name, variant in bundle.manifest.variants.items():
        for model in variant.models:
            parameters = bundle.codec_parameters(name, model)
            for scale in np.linspace(parameters.rate_min, parameters.rate_max, 9).tolist():
                OperatingPoint.derive(parameters, name, model, scale)
            print(f"{name}/{model}: tables hold from {parameters.rate_min:g} to {parameters.rate_max:g}")
    print(f"{bundle.path}: {len(bundle.manifest.files())} files as the manifest says; bundle {bundle.digest}")


def measured_table(rows: Iterable[TableRow]) -> Table:
    """The rows of a bundle's table, or of ``latentwire evaluate``."""
    table = Table("model", "rate scale", "images", "accuracy", "refined", "entropy", "ideal", "payload", box=None)
    for row in rows:
        table.add_row(
            row.model,
            f"{row.rate_scale:g}",
            str(row.images),
            f"{row.accuracy:.2%}",
            f"{row.share_refined:.1%}",
            f"{row.total_entropy_bits:.2f}",
            f"{row.ideal_bits:.2f}",
            f"{row.payload_bits:.2f}",
        )
    table.caption = "bits an image, on images no weight has seen"
    return table

"""``latentwire train``, ``export`` and ``evaluate``: from images to a measured bundle."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentwire.cli import full_size, method, recipe
from latentwire.cli.bundle import measured_table
from latentwire.cli.options import BundleOption, DataRoot, JsonFile, wrong_use

app = typer.Typer(no_args_is_help=True, help="Train encoder/decoder pairs.")
app.command("rate")(method.train_rate)
app.command("duphil")(method.train_duphil)
app.command("ldr")(method.train_ldr)
app.command("all")(full_size.train_all)


@app.command("ce")
def train_ce(
    data: recipe.Data,
    out: recipe.Out,
    data_root: DataRoot = None,
    backbone: recipe.Backbone = "resnet18",
    width: recipe.Width = 64,
    cut: recipe.Cut = 2,
    grid: recipe.Grid = 4,
    hidden: recipe.Hidden = 512,
    bottleneck: recipe.Bottleneck = "dense",
    d: recipe.Entries = 16,
    head: recipe.Head = True,
    patch: recipe.Patch = 1,
    decoder: recipe.DecoderKind = "linear",
    decoder_width: recipe.DecoderWidth = None,
    size: recipe.Size = None,
    epochs: recipe.Epochs = 24,
    batch: recipe.Batch = 256,
    peak_rate: recipe.PeakRate = 0.4,
    validation: recipe.Validation = 0.05,
    seed: int = 0,
    precision: recipe.Precision = "bf16",
    schedule: recipe.Schedule = "one-cycle",
    device: recipe.Device = "auto",
    devices: recipe.Devices = 1,
    threads: recipe.Threads = None,
    resume: recipe.Resume = False,
) -> None:
    """Train a pair end to end on cross-entropy: the paper's baseline, and the start of its method."""
    from training.ce import CETrainingConfig, run_train_ce
    from training.devices import on_devices
    from training.models import PairConfig

    with wrong_use():
        pair = PairConfig(
            backbone=backbone,
            width=width,
            cut=cut,
            grid=grid,
            hidden=hidden,
            d=d,
            head=head,
            patch=patch,
            decoder=decoder,  # type: ignore[arg-type]  # PairConfig says which there are
            decoder_width=decoder_width,
            bottleneck=bottleneck,  # type: ignore[arg-type]  # as above
        )
        config = CETrainingConfig(
            data=data,
            out=out,
            root=data_root,
            size=size,
            pair=pair,
            epochs=epochs,
            batch=batch,
            peak_rate=peak_rate,
            validation=validation,
            seed=seed,
            precision=precision,  # type: ignore[arg-type]  # as above
            schedule=schedule,  # type: ignore[arg-type]  # as above
            device=device,
            threads=threads,
            resume=resume,
        )
    print(on_devices(devices, device, run_train_ce, config))


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A training command's checkpoint.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder; an old bundle there is replaced.")],
    data_root: DataRoot = None,
    model_id: Annotated[str | None, typer.Option(help="The bundle's name; default: after what it is.")] = None,
    step_rule: Annotated[str, typer.Option(help="Step sizes by entropy, uniform, or by sensitivity.")] = "entropy",
    clusters: Annotated[int | None, typer.Option(min=2, help="Anchors: clusters; default: an anchor a class.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Add the encoder in 8-bit integers, as variant int8.")] = False,
) -> None:
    """Turn a checkpoint into a bundle: ONNX halves, fitted entropy models, the knob as measured."""
    from training.export import ExportConfig, run_export

    with wrong_use():
        config = ExportConfig(checkpoint, out, data_root, model_id, step_rule, clusters, int8)  # type: ignore[arg-type]  # it checks
    with Console(stderr=True, highlight=False).status("exporting") as status:
        bundle = run_export(config, status.update)
    print(f"{bundle.path}: {bundle.manifest.model_id}, bundle {bundle.digest}")


def evaluate(
    bundle: BundleOption,
    data: Annotated[str, typer.Option(help="digits, cifar10, cifar100: its test split.")],
    data_root: DataRoot = None,
    variant: Annotated[str | None, typer.Option(help="Default: the bundle's own.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Entropy models; default: all the variant has.")] = None,
    rate_scale: Annotated[list[float] | None, typer.Option(help="Default: the knots of the measured path.")] = None,
    images_per_message: Annotated[int, typer.Option(min=1)] = 64,
    json: JsonFile = None,
) -> None:
    """Accuracy and bits of a bundle on a whole test set, through the real codec."""
    from dataclasses import asdict

    from latentwire.bundle import load_bundle
    from latentwire.datasets import load_test
    from latentwire.report import write_json
    from training.evaluation import evaluate_bundle

    loaded = load_bundle(bundle)
    name = variant or loaded.manifest.default_variant
    rows = evaluate_bundle(loaded, name, load_test(data, data_root), model, rate_scale, images_per_message)
    Console().print(measured_table(rows))
    write_json(json, [{"bundle": loaded.manifest.model_id, "variant": name} | asdict(row) for row in rows])


def measure(
    bundle: BundleOption,
    data: Annotated[str, typer.Option(help="digits, cifar10, cifar100, or folder:PATH: its test split.")],
    records: Annotated[Path, typer.Option(help="The file that the records are added to.")],
    data_root: DataRoot = None,
    variant: Annotated[str | None, typer.Option(help="Default: the bundle's own.")] = None,
    distorted: Annotated[bool, typer.Option(help="Also rotated, flipped and recoloured pictures.")] = True,
) -> None:
    """Measure a trained bundle over its knobs, on pictures as they are and distorted, for ``latentwire report``."""
    from training.measuring import MeasureConfig, run_measure

    config = MeasureConfig(bundle, data, records, data_root, variant, distorted)
    with Console(stderr=True, highlight=False).status("measuring") as status:
        done = run_measure(config, status.update)
    print(f"{records}: {len(done)} records of {bundle}")


def report(
    records: Annotated[list[Path], typer.Option(help="Files of latentwire measure.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and tables.")],
    bundle: Annotated[list[str] | None, typer.Option(help="Bundles whose latents' spread is drawn.")] = None,
) -> None:
    """Draw the paper's figures and write one table a data set from what was measured."""
    from training.reporting import ReportConfig, run_report

    for path in run_report(ReportConfig(records, out, bundle or [])):
        print(path)

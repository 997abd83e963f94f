"""The paper's method: ``latentwire train rate``, ``train duphil``, ``train ldr``, ``truncate`` and ``screen``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latentwire.cli import recipe
from latentwire.cli.bundle import measured_table
from latentwire.cli.options import DataRoot, JsonFile, wrong_use

Rate = Annotated[float, typer.Option(help="Learning rate of steps 1 and 2.")]
LDRBatch = Annotated[int, typer.Option(min=2, help="Images a batch in steps 1 and 2.")]
Alternate = Annotated[str, typer.Option(help="Encoder and decoder in turns: every batch, or phase by phase.")]
Eps2 = Annotated[float, typer.Option(help="The LDR loss's precision, squared.")]
Gamma1 = Annotated[float, typer.Option(help="Inside the LDR loss's spread term.")]
Gamma2 = Annotated[float, typer.Option(help="Weighs the LDR loss's spread term.")]
Noise = Annotated[float, typer.Option(help="Most noise on the latent, in standard deviations.")]
Quantizer = Annotated[str, typer.Option(help="What stands for a bin in training: noise, or round.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Default: the checkpoint's.")]


def train_rate(
    data: recipe.Data,
    out: recipe.Out,
    weight: Annotated[float, typer.Option(help="Weighs an image's bits in the loss.")],
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
    device: recipe.Device = "auto",
    devices: recipe.Devices = 1,
    threads: recipe.Threads = None,
    resume: recipe.Resume = False,
) -> None:
    """Train a pair end to end on cross-entropy and weighted bits: the baseline with a rate term."""
    from training.devices import on_devices
    from training.models import PairConfig
    from training.rate import RateTrainingConfig, run_train_rate

    with wrong_use():
        pair = PairConfig(
            backbone=backbone, width=width, cut=cut, grid=grid, hidden=hidden, d=d, head=head, patch=patch,
            decoder=decoder,  # type: ignore[arg-type]  # PairConfig says which there are
            decoder_width=decoder_width,
            bottleneck=bottleneck,  # type: ignore[arg-type]  # as above
        )  # fmt: skip
        config = RateTrainingConfig(
            data, out, data_root, size, pair, epochs, batch, peak_rate, validation=validation, seed=seed,
            precision=precision,  # type: ignore[arg-type]  # as above
            device=device, threads=threads, resume=resume, rate_weight=weight,
        )  # fmt: skip
    print(on_devices(devices, device, run_train_rate, config))


def train_duphil(
    start: recipe.From,
    out: recipe.Out,
    data_root: DataRoot = None,
    epochs: recipe.Epochs = 8,
    alternate: Alternate = "batch",
    batch: LDRBatch = 1000,
    rate: Rate = 1e-3,
    eps2: Eps2 = 0.5,
    gamma1: Gamma1 = 1.0,
    gamma2: Gamma2 = 1.0,
    noise: Noise = 0.0,
    quantizer: Quantizer = "noise",
    seed: Seed = None,
    precision: recipe.Precision = "bf16",
    device: recipe.Device = "auto",
    devices: recipe.Devices = 1,
    threads: recipe.Threads = None,
    resume: recipe.Resume = False,
) -> None:
    """Step 1: the encoder learns from the LDR loss, the decoder from cross-entropy, in turns."""
    values = dict(alternate=alternate, batch=batch, rate=rate, eps2=eps2, gamma1=gamma1, gamma2=gamma2)
    rest = dict(
        noise=noise, quantizer=quantizer, seed=seed, precision=precision, device=device, threads=threads, resume=resume
    )
    _train(devices, start, out, root=data_root, steps=(1,), epochs=(epochs,) * 3, **values, **rest)


def train_ldr(
    out: recipe.Out,
    start: Annotated[Path | None, typer.Option("--from", help="A training command's checkpoint.")] = None,
    data: Annotated[str | None, typer.Option(help="With --smoke: the data set.")] = None,
    data_root: DataRoot = None,
    steps: Annotated[str, typer.Option(help="Which of the steps.")] = "1,2,3",
    epochs: Annotated[str, typer.Option(help="Of steps 1, 2 and 3.")] = "8,8,8",
    alternate: Alternate = "batch",
    batch: LDRBatch = 1000,
    rate: Rate = 1e-3,
    finetune_batch: Annotated[int, typer.Option(min=2, help="Images a batch in step 3.")] = 256,
    finetune_rate: Annotated[float, typer.Option(help="Learning rate of step 3.")] = 3e-4,
    eps2: Eps2 = 0.5,
    gamma1: Gamma1 = 1.0,
    gamma2: Gamma2 = 1.0,
    self_gamma1: Annotated[float, typer.Option(help="As --gamma1, in step 2.")] = 20.0,
    self_gamma2: Annotated[float, typer.Option(help="As --gamma2, in step 2.")] = 0.05,
    self_rate: Annotated[float, typer.Option(help="Learning rate of the encoder in step 2.")] = 1e-4,
    self_images: Annotated[int, typer.Option(help="Images a batch in step 2's self-labels.")] = 20,
    self_views: Annotated[int, typer.Option(help="Augmentations of each.")] = 50,
    ldr_weight: Annotated[float, typer.Option(help="Weighs the LDR loss in step 3.")] = 0.05,
    noise: Noise = 0.0,
    quantizer: Quantizer = "noise",
    seed: Seed = None,
    precision: recipe.Precision = "bf16",
    device: recipe.Device = "auto",
    devices: recipe.Devices = 1,
    threads: recipe.Threads = None,
    resume: recipe.Resume = False,
    smoke: Annotated[bool, typer.Option(help="A tiny run of everything on --data, exported and evaluated.")] = False,
) -> None:
    """The paper's steps after CE-T: DuPHiL with labels, with self-labels, then end to end."""
    if smoke:
        _smoke(data, out, data_root, device, threads, resume)
        return
    if start is None or data is not None:
        raise typer.BadParameter("give --from CHECKPOINT (its data is used), or --smoke with --data")
    _train(
        devices, start, out, root=data_root,
        steps=recipe.numbers(steps, "--steps"), epochs=recipe.numbers(epochs, "--epochs"),
        alternate=alternate, batch=batch, rate=rate, finetune_batch=finetune_batch, finetune_rate=finetune_rate,
        eps2=eps2, gamma1=gamma1, gamma2=gamma2, self_gamma1=self_gamma1, self_gamma2=self_gamma2,
        self_images=self_images, self_views=self_views, ldr_weight=ldr_weight, noise=noise,
        quantizer=quantizer, self_rate=self_rate, seed=seed, precision=precision, device=device, threads=threads,
        resume=resume,
    )  # fmt: skip


def _train(devices: int, start: Path, out: Path, **settings: Any) -> None:
    from training.devices import on_devices
    from training.duphil import LDRTrainingConfig, run_train_ldr

    with wrong_use():
        config = LDRTrainingConfig(start, out, **settings)
    print(on_devices(devices, config.device, run_train_ldr, config))


def _smoke(data: str | None, out: Path, root: Path | None, device: str, threads: int | None, resume: bool) -> None:
    from training.smoke import SmokeConfig, run_smoke

    if data is None:
        raise typer.BadParameter("--smoke needs --data")
    config = SmokeConfig(data, out, root, device, threads, resume)
    bundle = run_smoke(config, Console(stderr=True, highlight=False).print)
    Console().print(measured_table(bundle.manifest.variant().table))
    print(f"{bundle.path}: {bundle.manifest.model_id}, bundle {bundle.digest}")


def truncate(
    start: recipe.From,
    out: recipe.Out,
    keep: Annotated[int, typer.Option(min=1, help="Entries of the latent that stay: the first ones.")],
    finetune: Annotated[str, typer.Option(help="By ce, or by the three steps: ldr.")] = "ldr",
    data_root: DataRoot = None,
    bundle: Annotated[Path | None, typer.Option(help="The whole pair's bundle, to add the pair to.")] = None,
    variant: Annotated[str, typer.Option(help="Its name in the bundle.")] = "truncated",
    epochs: Annotated[int, typer.Option(min=1, help="Of each step.")] = 8,
    batch: LDRBatch = 1000,
    rate: Rate = 1e-3,
    finetune_rate: Annotated[float, typer.Option(help="Learning rate of the last step, end to end.")] = 3e-4,
    noise: Noise = 0.0,
    quantizer: Quantizer = "noise",
    device: recipe.Device = "auto",
    threads: recipe.Threads = None,
    resume: recipe.Resume = False,
) -> None:
    """Drop the last entries of a trained pair's latent, fine-tune, and add the pair to its bundle as a variant."""
    from training.truncation import TruncationConfig, run_truncate

    settings = dict(batch=batch, rate=rate, finetune_rate=finetune_rate, noise=noise, quantizer=quantizer)
    settings |= dict(device=device, threads=threads)
    with wrong_use():
        config = TruncationConfig(
            start, out, keep, finetune, epochs, bundle, variant, data_root, settings, resume  # type: ignore[arg-type]
        )  # fmt: skip
    print(run_truncate(config, Console(stderr=True, highlight=False).print))


def screen(
    data: recipe.Data,
    out: recipe.Out,
    d: Annotated[str, typer.Option(help="Widths of the latent to try.")] = "8,10,16,32,64,128",
    data_root: DataRoot = None,
    backbone: recipe.Backbone = "resnet18",
    width: recipe.Width = 64,
    cut: recipe.Cut = 2,
    grid: recipe.Grid = 4,
    hidden: recipe.Hidden = 512,
    bottleneck: recipe.Bottleneck = "dense",
    head: recipe.Head = True,
    patch: recipe.Patch = 1,
    size: recipe.Size = None,
    epochs: recipe.Epochs = 6,
    batch: recipe.Batch = 256,
    peak_rate: recipe.PeakRate = 0.4,
    validation: recipe.Validation = 0.1,
    seed: int = 0,
    device: recipe.Device = "auto",
    threads: recipe.Threads = None,
    json: JsonFile = None,
) -> None:
    """Short CE trainings of several latent widths: one table, and the width that does best on validation images."""
    from dataclasses import asdict

    from latentwire.report import write_json
    from training.ce import CETrainingConfig
    from training.models import PairConfig
    from training.screening import ScreeningConfig, run_screening

    with wrong_use():
        pair = PairConfig(
            backbone=backbone, width=width, cut=cut, grid=grid, hidden=hidden, head=head, patch=patch,
            bottleneck=bottleneck,  # type: ignore[arg-type]  # PairConfig says which there are
        )  # fmt: skip
        base = CETrainingConfig(
            data, out, data_root, size, pair, epochs, batch, peak_rate, validation=validation, seed=seed,
            device=device, threads=threads,
        )  # fmt: skip
        config = ScreeningConfig(base, recipe.numbers(d, "--d"))
    trials = run_screening(config)
    best = trials.best()
    table = Table("d", "validation accuracy", "head", "sensor MACs", "seconds", box=None)
    for trial in trials.rows:
        head_accuracy = "-" if trial.head_accuracy is None else f"{trial.head_accuracy:.2%}"
        figures = (f"{trial.validation_accuracy:.2%}", head_accuracy, f"{trial.sensor_macs:,}", f"{trial.seconds:.0f}")
        table.add_row(str(trial.d), *figures, style="bold" if trial == best else "")
    Console().print(table)
    print(f"best on {trials.validation_images} validation images: d = {best.d}")
    write_json(json, [asdict(trial) for trial in trials.rows])

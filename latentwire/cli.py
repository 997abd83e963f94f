"""The ``latentwire`` command. Thin: each subcommand imports what it needs, asks, and prints.

Settings come from a flag, else the environment (``LATENTWIRE_<COMMAND>_<OPTION>``), else a TOML file given by
``--config``, else the default. Exit status: 0 done, 1 failed, 2 wrong use.
"""

import logging
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentwire import __version__
from latentwire.errors import LatentwireError

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LATENTWIRE"}
app = typer.Typer(no_args_is_help=True, context_settings=CONTEXT, pretty_exceptions_enable=False, add_completion=False)
bundle_app = typer.Typer(no_args_is_help=True, help="Look at model bundles.")
ctl_app = typer.Typer(no_args_is_help=True, help="See the sensors of a running server and turn their knobs.")
rate_app = typer.Typer(no_args_is_help=True, help="A sensor's rate scale.")
train_app = typer.Typer(no_args_is_help=True, help="Train encoder/decoder pairs.")
app.add_typer(bundle_app, name="bundle")
app.add_typer(train_app, name="train")
app.add_typer(ctl_app, name="ctl")
ctl_app.add_typer(rate_app, name="rate")

BundleOption = Annotated[str, typer.Option("--bundle", help="A bundle folder, or the name of a shipped one.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="LATENTWIRE_DATA", help="Where data sets lie (CIFAR's python files).")
]


def main() -> None:
    """Run the command; a deliberate error is one line and exit status 1."""
    try:
        app(standalone_mode=True)
    except LatentwireError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings, one table a command.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Classify images across a thin link: sensors send a few bytes an image, a server answers with classes."""
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"--log-level must be debug, info, warning or error, not {log_level!r}")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("latentwire").setLevel(level)  # other libraries' chatter stays at warnings
    if config is not None:
        try:
            context.default_map = tomllib.loads(config.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise LatentwireError(f"{config} is no TOML file of settings: {error}") from error


@contextmanager
def _wrong_use() -> Iterator[None]:
    """A setting that a config class refuses is wrong use: exit status 2."""
    try:
        yield
    except LatentwireError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def sensor(
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")],
    source: Annotated[str, typer.Option(help="digits, cifar10, cifar100, an image, a folder, a video, a camera index.")],
    bundle: BundleOption = "digits",
    name: Annotated[str, typer.Option(help="This sensor's name on the server.")] = "sensor",
    variant: Annotated[str | None, typer.Option(help="The bundle's variant; default: its own.")] = None,
    model: Annotated[str | None, typer.Option(help="The entropy model; default: the variant's own.")] = None,
    rate_scale: Annotated[float | None, typer.Option(help="The knob at start; default: the bundle's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many images, going round.")] = None,
    results: Annotated[str | None, typer.Option(help="Write one JSON line an image to this file; - for stdout.")] = None,
    images_per_message: Annotated[int, typer.Option(min=1, help="Close a message at so many images.")] = 16,
    delay_s: Annotated[float, typer.Option(min=0.0, help="... or when its first image has waited so long.")] = 0.1,
    threads: Annotated[int, typer.Option(min=1, help="ONNX Runtime's threads.")] = 1,
    max_unanswered_images: Annotated[int, typer.Option(min=1, help="Images sent ahead of their results.")] = 256,
    connect_timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a server never reached.")] = 10.0,
    data_root: DataRoot = None,
    progress: Annotated[bool, typer.Option(help="Show progress on standard error.")] = True,
) -> None:
    """Stream a source's images to a server as a few bytes each."""
    from edge_sensor.config import SensorConfig
    from edge_sensor.run import run_sensor

    with _wrong_use():
        config = SensorConfig(
            bundle=bundle,
            server=server,
            source=source,
            name=name,
            variant=variant,
            model=model,
            rate_scale=rate_scale,
            limit=limit,
            results=results,
            images_per_message=images_per_message,
            delay_s=delay_s,
            threads=threads,
            max_unanswered_images=max(max_unanswered_images, images_per_message),
            connect_timeout_s=connect_timeout_s,
            data_root=data_root,
            progress=progress,
        )
    run_sensor(config)


@app.command()
def server(
    bundle: BundleOption = "digits",
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 takes a free one.")] = "127.0.0.1:50051",
    threads: Annotated[int, typer.Option(min=0, help="ONNX Runtime's threads; 0: one a core.")] = 0,
    max_batch_images: Annotated[int, typer.Option(min=1, help="Images in one decoder run.")] = 256,
    batch_delay_s: Annotated[float, typer.Option(min=0.0, help="Longest wait for more images.")] = 0.002,
    grace_s: Annotated[float, typer.Option(min=0.0, help="Longest wait for streams when stopping.")] = 5.0,
) -> None:
    """Decode and classify what sensors send; serve their control."""
    from edge_server.config import ServerConfig
    from edge_server.server import run_server_blocking

    with _wrong_use():
        config = ServerConfig(
            bundle=bundle,
            listen=listen,
            decoder_threads=threads,
            max_batch_images=max_batch_images,
            batch_delay_s=batch_delay_s,
            grace_s=grace_s,
        )
    run_server_blocking(config)


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="digits, cifar10 or cifar100: whose test images are streamed.")] = "digits",
    bundle: Annotated[str | None, typer.Option(help="A bundle; default: the shipped one of that name.")] = None,
    data_root: DataRoot = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times round the test images at each rate scale.")] = 4,
    images_per_message: Annotated[int, typer.Option(min=1, help="Images in one message.")] = 64,
    json: JsonFile = None,
) -> None:
    """Stream test images from a sensor process to a server process and turn the knob on the way."""
    from latentwire.demo import DemoConfig, run_demo
    from latentwire.report import write_json

    rows = run_demo(DemoConfig(data, bundle, data_root, rounds, images_per_message), Console(highlight=False))
    write_json(json, rows)


@train_app.command("ce")
def train_ce(
    data: Annotated[str, typer.Option(help="digits, cifar10, cifar100, or folder:PATH of class folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the log.")],
    data_root: DataRoot = None,
    backbone: Annotated[str, typer.Option(help="resnet18 or resnet34.")] = "resnet18",
    width: Annotated[int, typer.Option(min=1, help="Channels of the first stage; 64 is full width.")] = 64,
    cut: Annotated[int, typer.Option(min=1, max=4, help="Stages on the sensor.")] = 2,
    grid: Annotated[int, typer.Option(min=1, help="Side of the pooled map before the bottleneck.")] = 4,
    hidden: Annotated[int, typer.Option(min=1, help="The bottleneck's inner width.")] = 512,
    d: Annotated[int, typer.Option(min=1, help="Entries of the latent.")] = 16,
    head: Annotated[bool, typer.Option(help="A classifier on the latent, which names the anchor.")] = True,
    decoder: Annotated[str, typer.Option(help="How it grows back: linear or transposed.")] = "linear",
    size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width for a folder's images.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 24,
    batch: Annotated[int, typer.Option(min=2)] = 256,
    peak_rate: Annotated[float, typer.Option(help="Top of the one-cycle learning rate.")] = 0.4,
    validation: Annotated[float, typer.Option(help="Share of the training set to measure on.")] = 0.05,
    seed: int = 0,
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="torch's threads on the CPU.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train a pair end to end on cross-entropy: the paper's baseline, and the start of its method."""
    from training.ce import CETrainingConfig, run_train_ce
    from training.models import PairConfig

    with _wrong_use():
        pair = PairConfig(
            backbone=backbone,
            width=width,
            cut=cut,
            grid=grid,
            hidden=hidden,
            d=d,
            head=head,
            decoder=decoder,  # type: ignore[arg-type]  # PairConfig says which there are
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
            device=device,
            threads=threads,
            resume=resume,
        )
    print(run_train_ce(config))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A training command's checkpoint.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder; an old bundle there is replaced.")],
    data_root: DataRoot = None,
    model_id: Annotated[str | None, typer.Option(help="The bundle's name; default: after what it is.")] = None,
) -> None:
    """Turn a checkpoint into a bundle: ONNX halves, fitted entropy models, the knob as measured."""
    from training.export import ExportConfig, run_export

    console = Console(stderr=True, highlight=False)
    with console.status("exporting") as status:
        bundle = run_export(ExportConfig(checkpoint, out, data_root, model_id), status.update)
    print(f"{bundle.path}: {bundle.manifest.model_id}, bundle {bundle.digest}")


@app.command()
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
    Console().print(_measured_table(rows))
    write_json(json, [{"bundle": loaded.manifest.model_id, "variant": name} | asdict(row) for row in rows])


@bundle_app.command("show")
def bundle_show(path: Annotated[str, typer.Argument(help="A bundle folder, or a shipped bundle's name.")]) -> None:
    """Print what a bundle holds and what its knob was measured to do."""
    from latentwire.bundle import load_bundle

    bundle = load_bundle(path)
    manifest = bundle.manifest
    spec = manifest.input
    console = Console(highlight=False)
    console.print(f"[bold]{manifest.model_id}[/]  format {manifest.format_version}  {bundle.path}")
    console.print(f"input {spec.height}x{spec.width}x{spec.channels} ({spec.channel_order})")
    console.print(f"{len(manifest.classes)} classes: {', '.join(manifest.classes[:12])}" + " ..." * (len(manifest.classes) > 12))
    for key, value in manifest.training.items():
        console.print(f"{key}: {value}")
    for name, variant in manifest.variants.items():
        default = " (default)" if name == manifest.default_variant else ""
        console.print(f"\n[bold]variant {name}[/]{default}: d = {variant.d}, default model {variant.default_model}")
        for entry in (variant.encoder, variant.decoder):
            console.print(f"  {entry.path}  {entry.bytes:,} bytes  sha256 {entry.sha256[:16]}…")
        console.print(_measured_table(variant.table))


@bundle_app.command("verify")
def bundle_verify(path: Annotated[str, typer.Argument(help="A bundle folder, or a shipped bundle's name.")]) -> None:
    """Check every file against the manifest and derive tables over the whole range of every knob."""
    import numpy as np

    from latentwire.bundle import load_bundle
    from latentwire.operating_point import OperatingPoint

    bundle = load_bundle(path)
    for name, variant in bundle.manifest.variants.items():
        for model in variant.models:
            parameters = bundle.codec_parameters(name, model)
            for scale in np.linspace(parameters.rate_min, parameters.rate_max, 9).tolist():
                OperatingPoint.derive(parameters, name, model, scale)
            print(f"{name}/{model}: tables hold from {parameters.rate_min:g} to {parameters.rate_max:g}")
    print(f"{bundle.path}: {len(bundle.manifest.files())} files as the manifest says; bundle {bundle.digest}")


def _measured_table(rows: Any) -> Table:
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


@ctl_app.callback()
def ctl(
    context: typer.Context,
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")] = "127.0.0.1:50051",
) -> None:
    """See the sensors of a running server and turn their knobs."""
    context.obj = server


@ctl_app.command("sensors")
def ctl_sensors(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the sensors."""
    import json as json_module
    from dataclasses import asdict

    from latentwire.control_client import ControlClient

    with ControlClient(context.obj) as control:
        sensors = control.list_sensors()
    if json:
        print(json_module.dumps([asdict(info) for info in sensors], indent=1))
    else:
        Console().print(_sensor_table(sensors))


@ctl_app.command("watch")
def ctl_watch(
    context: typer.Context,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Shortest time between two updates.")] = 1.0,
) -> None:
    """Show the sensors as they change, until interrupted."""
    from rich.live import Live

    from latentwire.control_client import ControlClient

    with ControlClient(context.obj) as control, Live(auto_refresh=False) as live:
        for sensors in control.watch(interval_s):
            live.update(_sensor_table(sensors), refresh=True)


@rate_app.command("get")
def ctl_rate_get(context: typer.Context, name: str) -> None:
    """Print a sensor's rate scale and what it costs."""
    from latentwire.control_client import ControlClient

    with ControlClient(context.obj) as control:
        print(_rate_line(control.get_rate(name)))


@rate_app.command("set")
def ctl_rate_set(
    context: typer.Context,
    name: str,
    rate_scale: float,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest wait for the first batch at the new rate.")] = 30.0,
) -> None:
    """Turn a sensor's knob; returns when the first batch at the new rate has been decoded."""
    from latentwire.control_client import ControlClient

    with ControlClient(context.obj) as control:
        before, after = control.set_rate(name, rate_scale, timeout_s)
    print(f"before: {_rate_line(before)}\nafter:  {_rate_line(after)}")


def _rate_line(rate: Any) -> str:
    return (
        f"rate scale {rate.rate_scale:g} ({rate.min_rate_scale:g} to {rate.max_rate_scale:g}, {rate.variant}/{rate.model}): "
        f"{rate.payload_bits_per_image:.2f} payload bits an image, {rate.share_refined:.1%} refined, "
        f"over {rate.images} images"
    )


def _sensor_table(sensors: Any) -> Table:
    table = Table("sensor", "state", "rate scale", "bits/image", "refined", "images/s", "answered", "refused", "dropped")
    for info in sensors:
        table.add_row(
            info.name,
            "connected" if info.connected else "away",
            f"{info.rate.rate_scale:g}",
            f"{info.rate.payload_bits_per_image:.2f}",
            f"{info.rate.share_refined:.1%}",
            f"{info.images_per_s:.1f}",
            str(info.images_answered),
            str(info.images_refused),
            str(sum(info.dropped.values())),
        )
    return table

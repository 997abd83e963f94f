"""``latentwire sensor`` runs a sensor, ``latentwire sensor status`` tells how those on this machine are doing."""

import json as jsonlib
import math
from pathlib import Path
from typing import Annotated

import typer

from latentwire.cli import units
from latentwire.cli.options import (
    BundleOption,
    DataRoot,
    Insecure,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenFile,
    Traces,
    TraceShare,
    access_of,
    wrong_use,
)
from latentwire.errors import LatentwireError
from latentwire.messages import RateControl

RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir", envvar="LATENTWIRE_RUN_DIR", help="Where sensors are asked for their status; default: found."
    ),
]

app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")


@app.callback()
def sensor(
    context: typer.Context,
    server: Annotated[str | None, typer.Option(help="HOST:PORT of the server, or of several. Needed.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="digits, cifar10, cifar100, an image, folder or video, a camera's index, an RTSP or HTTP stream's "
            "URL. Needed."
        ),
    ] = None,
    bundle: BundleOption = "digits",
    name: Annotated[str, typer.Option(help="This sensor's name on the server.")] = "sensor",
    variant: Annotated[str | None, typer.Option(help="The bundle's variant; default: its own.")] = None,
    model: Annotated[str | None, typer.Option(help="The entropy model; default: the variant's own.")] = None,
    rate_scale: Annotated[float | None, typer.Option(help="The knob at start; default: the bundle's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many images, going round.")] = None,
    results: Annotated[str | None, typer.Option(help="File for one JSON line an image; - for stdout.")] = None,
    images_per_message: Annotated[int, typer.Option(min=1, help="Close a message at so many images.")] = 16,
    delay_s: Annotated[float, typer.Option(min=0.0, help="... or when its first image has waited so long.")] = 0.1,
    threads: Annotated[int, typer.Option(min=1, help="ONNX Runtime's threads.")] = 1,
    max_unanswered_images: Annotated[int, typer.Option(min=1, help="Images sent ahead of their results.")] = 256,
    connect_timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a server never reached.")] = 10.0,
    spool: Annotated[
        Path | None, typer.Option(help="File that keeps coded messages until they are answered; default: memory.")
    ] = None,
    spool_bytes: Annotated[int, typer.Option(help="How large it may grow.")] = 64 << 20,
    spool_full: Annotated[str, typer.Option(help="What is dropped then: the oldest or the newest.")] = "oldest",
    spool_sync: Annotated[str, typer.Option(help="normal, or full: also proof against a loss of power.")] = "normal",
    spool_commit_s: Annotated[float, typer.Option(help="Write it at most so often.")] = 0.1,
    keepalive_s: Annotated[float, typer.Option(help="Ask a silent link for a sign of life so often.")] = 20.0,
    max_backoff_s: Annotated[float, typer.Option(help="Longest pause between attempts to connect.")] = 10.0,
    grace_s: Annotated[float, typer.Option(help="Longest wait for answers when stopping.")] = 5.0,
    watch: Annotated[bool, typer.Option("--watch", help="Also take images that come into the folder later.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Take every so many-th image.")] = 1,
    fps: Annotated[float | None, typer.Option(help="Images a second, at most.")] = None,
    motion: Annotated[
        float | None, typer.Option(help="Skip images of which no part has changed by so many levels of 255; try 8.")
    ] = None,
    source_timeout_s: Annotated[
        float, typer.Option(help="Open a camera or stream anew when it is silent for so long.")
    ] = 10.0,
    rate_control: Annotated[
        str, typer.Option(help="Who turns the knob: manual (latentwire ctl), or auto (the sensor, by --max-age).")
    ] = "manual",
    max_age: Annotated[str, typer.Option(help="How old images may get before they are answered, like 2s.")] = "2s",
    budget: Annotated[
        str | None, typer.Option(help="Send no more than this, framing in, like 2kbit/s; the sensor turns the knob.")
    ] = None,
    max_image_bits: Annotated[
        float, typer.Option(min=8, help="Never more (ideal) bits for an image, at any rate.")
    ] = math.inf,
    max_message_bits: Annotated[
        float, typer.Option(min=8, help="Never more payload bits in a message, at any rate.")
    ] = math.inf,
    data_root: DataRoot = None,
    progress: Annotated[bool, typer.Option(help="Show progress on standard error.")] = True,
    metrics: Annotated[str | None, typer.Option(help="HOST:PORT at which Prometheus may ask.")] = None,
    traces: Traces = None,
    trace_share: TraceShare = 1.0,
    run_dir: RunDir = None,
    bundle_store: Annotated[
        Path | None, typer.Option(help="Folder for bundles that come over the air; default: none are taken.")
    ] = None,
    bundle_key: Annotated[
        Path | None, typer.Option(help="Take only bundles signed by this Ed25519 public key (PEM).")
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
) -> None:
    """Stream a source's images to a server as a few bytes each."""
    if context.invoked_subcommand is not None:
        return
    from edge_sensor.config import SensorConfig
    from edge_sensor.run import run_sensor
    from edge_sensor.sources import SourceOptions

    if server is None or source is None:
        context.fail(f"Missing option '--{'server' if server is None else 'source'}'.")
    with wrong_use():
        config = SensorConfig(
            bundle=bundle,
            server=server,
            source=source,
            source_options=SourceOptions(watch, every, fps, motion, source_timeout_s),
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
            spool=spool,
            spool_bytes=spool_bytes,
            spool_full=spool_full,  # type: ignore[arg-type]  # checked by the configuration
            spool_sync=spool_sync,  # type: ignore[arg-type]
            spool_commit_s=spool_commit_s,
            keepalive_s=keepalive_s,
            max_backoff_s=max_backoff_s,
            grace_s=grace_s,
            rate_control=_rate_control(rate_control, max_age, budget),
            max_image_bits=max_image_bits,
            max_message_bits=max_message_bits,
            data_root=data_root,
            progress=progress,
            metrics=metrics,
            traces=traces,
            trace_share=trace_share,
            run_dir=run_dir,
            bundle_store=bundle_store,
            bundle_key=bundle_key,
            access=access_of("sensor", tls_ca, tls_cert, tls_key, token_file, insecure),
        )
    run_sensor(config)


@app.command()
def status(
    name: Annotated[str | None, typer.Option(help="Only the sensor of that name.")] = None,
    run_dir: RunDir = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of sensors.")] = False,
) -> None:
    """Tell how the sensors on this machine are doing."""
    from edge_sensor.status import in_words, run_folders, running

    found = [vitals for vitals in running(run_dir) if name in (None, vitals["sensor"])]
    if json:
        print(jsonlib.dumps(found, indent=1))
    else:
        print("\n\n".join(map(in_words, found)), end="\n" if found else "")
    if not found:
        which = "no sensor" if name is None else f"no sensor {name!r}"
        looked = ", ".join(map(str, run_folders(run_dir)))
        raise LatentwireError(
            f"{which} runs here (looked in {looked}): start one with latentwire sensor --server HOST:PORT --source "
            "SOURCE, ask as the user it runs as, or give its --run-dir"
        )


def _rate_control(who: str, max_age: str, budget: str | None) -> RateControl:
    if who not in ("manual", "auto"):
        raise ValueError(f"--rate-control must be manual or auto, not {who!r}")
    return RateControl(who == "auto", units.seconds(max_age), None if budget is None else units.bits_per_s(budget))

"""The ``latentwire`` command. Thin: each subcommand imports what it needs, asks, and prints.

Settings come from a flag, else the environment (``LATENTWIRE_<COMMAND>_<OPTION>``), else a TOML file given by
``--config``, else the default. Exit status: 0 done, 1 failed, 2 wrong use.
"""

import logging
import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from latentwire import __version__, logs
from latentwire.cli import bench as bench_commands
from latentwire.cli import bundle as bundle_commands
from latentwire.cli import certs as certs_commands
from latentwire.cli import ctl as ctl_commands
from latentwire.cli import method as method_commands
from latentwire.cli import sensor as sensor_commands
from latentwire.cli import training as training_commands
from latentwire.cli import upgrade as upgrade_commands
from latentwire.cli.options import (
    BundleOption,
    DataRoot,
    Insecure,
    JsonFile,
    TlsCa,
    TlsCert,
    TlsKey,
    Traces,
    TraceShare,
    wrong_use,
)
from latentwire.codec import coder as range_coder
from latentwire.errors import LatentwireError

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LATENTWIRE"}
app = typer.Typer(no_args_is_help=True, context_settings=CONTEXT, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(bench_commands.app, name="bench")
app.add_typer(bundle_commands.app, name="bundle")
app.add_typer(certs_commands.app, name="certs")
app.add_typer(ctl_commands.app, name="ctl")
app.add_typer(sensor_commands.app, name="sensor")
app.add_typer(training_commands.app, name="train")
app.command()(training_commands.export)
app.command()(training_commands.evaluate)
app.command()(training_commands.measure)
app.command()(training_commands.report)
app.command()(method_commands.truncate)
app.command()(method_commands.screen)
app.command()(upgrade_commands.upgrade)


def main() -> None:
    """Run the command; a deliberate error is one line and exit status 1."""
    try:
        app(standalone_mode=True)
    except LatentwireError as error:
        if logs.are_json():
            logging.getLogger("latentwire").error(str(error), extra={"error": error.error_name})
            sys.exit(1)
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
    log_format: Annotated[str, typer.Option(help="text, or json: one object a line on standard error.")] = "text",
    coder: Annotated[
        str | None, typer.Option(help="The range coder, constriction or portable: the same bytes; default: the faster.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print it.")
    ] = False,
) -> None:
    """Classify images across a thin link: sensors send a few bytes an image, a server answers with classes."""
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"--log-level must be debug, info, warning or error, not {log_level!r}")
    with wrong_use():
        logs.set_up(level, log_format)
    if coder is not None:
        with wrong_use():
            range_coder.use(coder)
        os.environ["LATENTWIRE_CODER"] = coder  # for the processes that the demo and the benchmarks start
    if config is not None:
        try:
            context.default_map = tomllib.loads(config.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise LatentwireError(f"{config} is no TOML file of settings: {error}") from error


@app.command()
def server(
    bundle: BundleOption = "digits",
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 takes a free one.")] = "127.0.0.1:50051",
    threads: Annotated[int, typer.Option(min=0, help="ONNX Runtime's threads; 0: one a core.")] = 0,
    provider: Annotated[
        str, typer.Option(help="ONNX Runtime's execution provider, as CUDAExecutionProvider.")
    ] = "CPUExecutionProvider",
    max_batch_images: Annotated[
        int | None, typer.Option(min=1, help="Images in one decoder run; default: what is answered in 50 ms.")
    ] = None,
    batch_delay_s: Annotated[
        float | None, typer.Option(min=0.0, help="Wait for more images; default: up to 2 ms, none without work.")
    ] = None,
    grace_s: Annotated[float, typer.Option(min=0.0, help="Longest wait for streams when stopping.")] = 5.0,
    backend: Annotated[str, typer.Option(help="local, or ray: decoders in a pool on Ray Serve (extra ray).")] = "local",
    max_replicas: Annotated[int, typer.Option(min=1, help="Most replicas of that pool.")] = 4,
    library: Annotated[
        Path | None, typer.Option(help="A folder of further bundles, to push to sensors and decode beside the first.")
    ] = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    tokens: Annotated[
        Path | None, typer.Option(help="File of the tokens that peers are known by; see latentwire certs token.")
    ] = None,
    insecure: Insecure = False,
    results: Annotated[
        Path | None, typer.Option(help="Write every answer to this file too: .jsonl, or .sqlite or .db.")
    ] = None,
    traces: Traces = None,
    trace_share: TraceShare = 1.0,
    max_streams: Annotated[int, typer.Option(min=1, help="Streams and other calls open at once.")] = 16384,
    max_streams_a_peer: Annotated[int, typer.Option(min=1, help="Of those, from one address or identity.")] = 4096,
    metrics: Annotated[str | None, typer.Option(help="PORT or HOST:PORT at which Prometheus may ask.")] = None,
) -> None:
    """Decode and classify what sensors send; serve their control."""
    from edge_server.config import ServerConfig
    from edge_server.server import run_server_blocking

    with wrong_use():
        config = ServerConfig(
            bundle=bundle,
            listen=listen,
            decoder_threads=threads,
            provider=provider,
            max_batch_images=max_batch_images,
            batch_delay_s=batch_delay_s,
            grace_s=grace_s,
            backend=backend,  # type: ignore[arg-type]  # ServerConfig says which there are
            max_replicas=max_replicas,
            library=library,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            tokens=tokens,
            insecure=insecure,
            results=results,
            metrics=metrics,
            traces=traces,
            trace_share=trace_share,
            max_streams=max_streams,
            max_streams_a_peer=max_streams_a_peer,
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

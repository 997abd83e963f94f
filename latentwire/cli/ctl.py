"""``latentwire ctl``: a server's sensors and their knobs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from latentwire.cli import units
from latentwire.cli.options import Insecure, TlsCa, TlsCert, TlsKey, TokenFile, access_of, wrong_use
from latentwire.messages import Rate, SensorInfo

if TYPE_CHECKING:
    from latentwire.control_client import ControlClient

app = typer.Typer(no_args_is_help=True, help="See the sensors of a running server and turn their knobs.")
rate_app = typer.Typer(no_args_is_help=True, help="A sensor's rate scale.")
app.add_typer(rate_app, name="rate")
variant_app = typer.Typer(no_args_is_help=True, help="Which of its bundle's variants a sensor runs.")
app.add_typer(variant_app, name="variant")
bundle_app = typer.Typer(no_args_is_help=True, help="Which bundle a sensor runs.")
app.add_typer(bundle_app, name="bundle")
MoveTimeout = Annotated[
    float, typer.Option("--timeout-s", min=0.1, help="Longest wait for the first batch; the sensor goes on without.")
]


@app.callback()
def ctl(
    context: typer.Context,
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")] = "127.0.0.1:50051",
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
) -> None:
    """See the sensors of a running server and turn their knobs."""
    with wrong_use():
        access = access_of("ctl", tls_ca, tls_cert, tls_key, token_file, insecure)
        access.check(server)
    context.obj = (server, access)


@app.command("sensors")
def ctl_sensors(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the sensors."""
    import json as json_module
    from dataclasses import asdict

    with _client(context) as control:
        sensors = control.list_sensors()
    if json:
        print(json_module.dumps([asdict(info) for info in sensors], indent=1))
    else:
        Console().print(_sensor_table(sensors))


@app.command("watch")
def ctl_watch(
    context: typer.Context,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Shortest time between two updates.")] = 1.0,
) -> None:
    """Show the sensors as they change, until interrupted."""
    from rich.live import Live

    with _client(context) as control, Live(auto_refresh=False) as live:
        for sensors in control.watch(interval_s):
            live.update(_sensor_table(sensors), refresh=True)


@rate_app.command("get")
def ctl_rate_get(context: typer.Context, name: str) -> None:
    """Print a sensor's rate scale and what it costs."""
    with _client(context) as control:
        rate = control.get_rate(name)
    print(_rate_line(rate))
    print(f"turned: {rate.control.described()}")


@rate_app.command("set")
def ctl_rate_set(
    context: typer.Context,
    name: str,
    rate_scale: float,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest wait for the first batch at the new rate.")] = 30.0,
) -> None:
    """Turn a sensor's knob; returns when the first batch at the new rate has been decoded."""
    with _client(context) as control:
        before, after = control.set_rate(name, rate_scale, timeout_s)
    print(f"before: {_rate_line(before)}\nafter:  {_rate_line(after)}")
    if before.control.by_itself and not after.control.by_itself:
        print(f"the sensor no longer turns its knob by itself (before: {before.control.described()})")


@rate_app.command("auto")
def ctl_rate_auto(
    context: typer.Context,
    name: str,
    max_age: Annotated[str | None, typer.Option(help="No image older than this, like 2s; default: as it is.")] = None,
    off: Annotated[bool, typer.Option("--off", help="No longer; the rate stays where it is.")] = False,
) -> None:
    """Have a sensor turn its knob by itself, so that its images' age stays under a limit; 'rate set' ends it."""

    with wrong_use():
        max_age_s = None if max_age is None else units.seconds(max_age)
    with _client(context) as control:
        print(f"{name}: {control.set_automatic(name, not off, max_age_s).described()}")


@rate_app.command("budget")
def ctl_rate_budget(
    context: typer.Context,
    name: str,
    budget: Annotated[str, typer.Argument(help="Like 2kbit/s, framing in; 'none' lifts it.")],
) -> None:
    """Put a ceiling on what a sensor sends; it turns its knob to keep under it. 'rate set' lifts it too."""

    with wrong_use():
        bits_per_s = None if budget == "none" else units.bits_per_s(budget)
    with _client(context) as control:
        print(f"{name}: {control.set_budget(name, bits_per_s).described()}")


@variant_app.command("set")
def ctl_variant_set(context: typer.Context, name: str, variant: str, timeout_s: MoveTimeout = 3600.0) -> None:
    """Have a sensor use another variant of its bundle; it fetches what it lacks.

    Returns when the first batch coded with it has been decoded.
    """
    with _client(context) as control:
        before, after = control.set_variant(name, variant, timeout_s)
    print(f"before: {_rate_line(before)}\nafter:  {_rate_line(after)}")


@bundle_app.command("list")
def ctl_bundle_list(context: typer.Context) -> None:
    """List the bundles that the server holds."""
    with _client(context) as control:
        bundles = control.list_bundles()
    table = Table("model id", "digest", "variants", "signed", "bytes for a sensor")
    for info in bundles:
        signed = "yes" if info.signed else "no"
        table.add_row(
            info.model_id, info.bundle_digest[:12], ", ".join(info.variants), signed, f"{info.sensor_bytes:,}"
        )
    Console().print(table)


@bundle_app.command("push")
def ctl_bundle_push(
    context: typer.Context,
    name: str,
    bundle: Annotated[
        str, typer.Argument(help="A model id or digest as 'ctl bundle list' has it, or a bundle folder.")
    ],
    variant: Annotated[str | None, typer.Option(help="Variant to use; default: the one it has now.")] = None,
    timeout_s: MoveTimeout = 3600.0,
) -> None:
    """Have a sensor fetch a bundle that the server holds and run it from then on.

    Returns when the first batch coded with it has been decoded.
    """
    from pathlib import Path

    from latentwire.bundle import read_manifest

    if Path(bundle).is_dir():
        _, bundle = read_manifest(Path(bundle))
    with _client(context) as control:
        before, after = control.push_bundle(name, bundle, variant, timeout_s)
    print(f"before: {_rate_line(before)}\nafter:  {_rate_line(after)}")


def _client(context: typer.Context) -> "ControlClient":
    from latentwire.control_client import ControlClient

    server, access = context.obj
    return ControlClient(server, access=access)


def _rate_line(rate: Rate) -> str:
    knob = f"{rate.min_rate_scale:g} to {rate.max_rate_scale:g}, {rate.variant}/{rate.model}"
    return (
        f"rate scale {rate.rate_scale:g} ({knob}): "
        f"{rate.payload_bits_per_image:.2f} payload bits an image, {rate.share_refined:.1%} refined, "
        f"over {rate.images} images"
    )


def _sensor_table(sensors: Iterable[SensorInfo]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))  # 80 columns for a sensor of the digits
    table.add_column("sensor", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("bundle", overflow="fold")
    for heading in ("rate scale", "bits an image", "refined", "images a second", "answered", "refused, dropped"):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    for info in sensors:
        table.add_row(
            info.name,
            "connected" if info.connected else "away",
            f"{info.model_id} {info.rate.variant}",
            f"{info.rate.rate_scale:g}",
            f"{info.rate.payload_bits_per_image:.2f}",
            f"{info.rate.share_refined:.1%}",
            f"{info.images_per_s:.1f}",
            str(info.images_answered),
            f"{info.images_refused}, {sum(info.dropped.values())}",
        )
    return table

"""The ``latentwire`` command: what it prints, the JSON it writes, its exit status: 0 done, 1 failed, 2 wrong use."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from command import latentwire

from latentwire import __version__
from latentwire.bundle import load_bundle, shipped_bundles
from latentwire.cli import app
from latentwire.local_run import SENSOR, stream

MEASURED = {
    "bundle",
    "variant",
    "model",
    "rate_scale",
    "images",
    "images_per_message",
    "accuracy",
    "share_refined",
    "total_entropy_bits",
    "ideal_bits",
    "payload_bits",
}  # of the field names that design.md fixes, those that need no wire


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    """A server with a sensor that streams digits; its HOST:PORT."""
    with stream("digits", "digits", 10_000_000, 16) as pair:
        pair.wait_for(64)
        yield pair.target


@pytest.fixture
def nobody() -> str:
    """A HOST:PORT at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def commands() -> list[list[str]]:
    """Every command and group, as typed."""

    def below(command: object, path: list[str]) -> Iterator[list[str]]:
        yield path
        for name, sub in getattr(command, "commands", {}).items():
            yield from below(sub, [*path, name])

    return list(below(typer.main.get_command(app), []))


def test_the_installed_command_prints_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentwire", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")
    assert latentwire("--version").out == done.stdout


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_helps(path: list[str]) -> None:
    done = latentwire(*path, "-h")
    assert done.status == 0
    assert "Usage" in done.out
    assert done.err == ""


@pytest.mark.parametrize("name", shipped_bundles())
def test_show_says_what_a_bundle_holds(name: str) -> None:
    manifest = load_bundle(name).manifest
    done = latentwire("bundle", "show", name)
    assert done.status == 0
    assert f"{manifest.model_id}  format {manifest.format_version}" in done.out
    assert f"{len(manifest.classes)} classes: {manifest.classes[0]}, " in done.out
    for variant in manifest.variants.values():
        assert f"d = {variant.d}, default model {variant.default_model}" in done.out
        for entry in (variant.encoder, variant.decoder):
            assert entry.sha256[:16] in done.out
    models = manifest.variant().models
    rows = [line for line in done.out.splitlines() if line.split()[:1] and line.split()[0] in models]
    assert len(rows) == sum(len(variant.table) for variant in manifest.variants.values())


@pytest.mark.parametrize("name", shipped_bundles())
def test_verify_checks_every_file_and_every_knob(name: str) -> None:
    bundle = load_bundle(name)
    done = latentwire("bundle", "verify", name)
    assert done.status == 0
    assert bundle.digest in done.out
    assert f"{len(bundle.manifest.files())} files" in done.out
    for model in bundle.manifest.variant().models:
        assert f"full/{model}: tables hold from" in done.out


def test_verify_names_the_file_that_was_altered(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(load_bundle("digits").path, folder)
    with (folder / "full-decoder.onnx").open("r+b") as file:
        file.write(b"\0")
    assert "full-decoder.onnx is not the file its manifest names" in latentwire("bundle", "verify", folder).error


def test_evaluate_writes_the_fields_of_the_design(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    settings = ["--model", "anchored", "--model", "gaussian", "--rate-scale", 0.1, "--rate-scale", 2, "--json", path]
    done = latentwire("evaluate", "--bundle", "digits", "--data", "digits", *settings)
    assert done.status == 0
    content = json.loads(path.read_text())
    assert set(content) == {"meta", "rows"}
    assert set(content["meta"]) == {"command", "commit", "versions", "machine", "time"}
    assert content["meta"]["command"].startswith("latentwire evaluate --bundle digits")
    assert [(row["model"], row["rate_scale"]) for row in content["rows"]] == [
        ("anchored", 0.1),
        ("anchored", 2.0),
        ("gaussian", 0.1),
        ("gaussian", 2.0),
    ]
    for row in content["rows"]:
        assert set(row) == MEASURED
        assert (row["bundle"], row["variant"], row["images_per_message"]) == ("digits", "full", 64)
        assert row["images"] >= 350
        assert 0 <= row["accuracy"] <= 1
        assert f"{row['accuracy']:.2%}" in done.out
        assert f"{row['payload_bits']:.2f}" in done.out


def test_evaluate_prints_what_the_bundles_own_table_says(tmp_path: Path) -> None:
    """The shipped table was measured on another machine: accuracies to within an image, bits to within a thousandth."""
    path = tmp_path / "rows.json"
    assert latentwire("evaluate", "--bundle", "digits", "--data", "digits", "--json", path).status == 0
    measured = {(row["model"], row["rate_scale"]): row for row in json.loads(path.read_text())["rows"]}
    table = load_bundle("digits").manifest.variant().table
    assert set(measured) == {(row.model, row.rate_scale) for row in table}
    for row in table:
        ours = measured[row.model, row.rate_scale]
        assert ours["accuracy"] == pytest.approx(row.accuracy, abs=1.01 / row.images)
        assert ours["ideal_bits"] == pytest.approx(row.ideal_bits, rel=1e-3)


def test_the_knob_is_turned_from_outside(running: str) -> None:
    knob = load_bundle("digits").manifest.variant().model()
    fine = 0.625 * knob.rate_max
    before = latentwire("ctl", "--server", running, "rate", "get", SENSOR)
    assert before.status == 0
    ends = f"{knob.rate_min:g} to {knob.rate_max:g}, full/anchored"
    assert before.out.startswith(f"rate scale {knob.rate_default:g} ({ends}): ")
    turned = latentwire("ctl", "--server", running, "rate", "set", SENSOR, fine)
    assert turned.status == 0
    old, new = turned.out.splitlines()
    assert old.startswith(f"before: rate scale {knob.rate_default:g} ")
    assert new.startswith(f"after:  rate scale {fine:g} ")
    bits = [float(line.partition("): ")[2].split()[0]) for line in (old, new)]
    assert 3 < bits[0] < bits[1]
    assert "100.0% refined" in new
    listed = json.loads(latentwire("ctl", "--server", running, "sensors", "--json").out)
    assert [info["name"] for info in listed] == [SENSOR]
    assert listed[0]["rate"]["rate_scale"] == fine
    assert listed[0]["images_answered"] >= 64
    assert SENSOR in latentwire("ctl", "--server", running, "sensors").out


@pytest.mark.parametrize("rate_scale", ["0", "-1", "nan", "inf", "1e300"])
def test_a_rate_scale_that_the_bundle_has_not_is_refused(running: str, rate_scale: str) -> None:
    done = latentwire("ctl", "--server", running, "rate", "set", SENSOR, "--", rate_scale)
    knob = load_bundle("digits").manifest.variant().model()
    assert f"outside this bundle's range: give {knob.rate_min:g} to {knob.rate_max:g}" in done.error


def test_an_unknown_sensor_is_named(running: str) -> None:
    assert "nosuch" in latentwire("ctl", "--server", running, "rate", "get", "nosuch").error
    assert "nosuch" in latentwire("ctl", "--server", running, "rate", "set", "nosuch", "1").error


@pytest.mark.parametrize(
    "arguments", [["sensors"], ["watch"], ["rate", "get", "cam"], ["rate", "set", "cam", "1"]], ids=" ".join
)
def test_ctl_says_that_no_server_answers(nobody: str, arguments: list[str]) -> None:
    done = latentwire("ctl", "--server", nobody, *arguments)
    assert done.error.startswith(f"no server answers at {nobody}: start 'latentwire server'")


def test_a_sensor_says_that_no_server_answers(nobody: str) -> None:
    options = ["--source", "digits", "--connect-timeout-s", "0.3", "--no-progress", "--limit", 1]
    done = subprocess.run(
        [sys.executable, "-m", "latentwire", "sensor", "--server", nobody, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert nobody in done.stderr.splitlines()[-1]


EVALUATE = ["evaluate", "--bundle", "digits", "--data"]
FAILS: dict[str, tuple[list[str], str]] = {
    "no bundle": (["bundle", "show", "/nowhere"], "give a bundle folder or a shipped one"),
    "no data set": ([*EVALUATE, "mnist"], "unknown data set 'mnist'"),
    "no variant": ([*EVALUATE, "digits", "--variant", "half"], "no variant 'half'; there are full"),
    "no model": ([*EVALUATE, "digits", "--model", "best"], "no entropy model 'best'"),
    "out of range": ([*EVALUATE, "digits", "--rate-scale", "99"], "is outside this bundle's range: give "),
    "other images": (["evaluate", "--bundle", "cifar10", "--data", "digits"], "takes 32x32x3 images"),
    "no folder": ([*EVALUATE, "digits", "--rate-scale", "1", "--json", "/nowhere/rows.json"], "cannot be written"),
    "no settings": (["--config", "/nowhere.toml", "bundle", "show", "digits"], "no TOML file of settings"),
    "no checkpoint": (["export", "/nowhere/checkpoint.pt", "--out", "/nowhere/b"], "/nowhere/checkpoint.pt"),
}


@pytest.mark.parametrize(("arguments", "says"), FAILS.values(), ids=FAILS)
def test_failures_are_one_line_and_status_1(arguments: list[str], says: str) -> None:
    assert says in latentwire(*arguments).error


WRONG: list[list[str]] = [
    ["nosuch"],
    ["bundle", "nosuch"],
    ["bundle", "show"],
    ["bundle", "show", "digits", "--nosuch"],
    ["--log-level", "loud", "bundle", "show", "digits"],
    ["--coder", "huffman", "bundle", "show", "digits"],
    [*EVALUATE, "digits", "--rate-scale", "fine"],
    [*EVALUATE, "digits", "--images-per-message", "0"],
    ["evaluate", "--bundle", "digits"],
    ["ctl", "rate", "set", "cam"],
    ["ctl", "rate", "set", "cam", "much"],
    ["ctl", "watch", "--interval-s", "0"],
    ["demo", "--rounds", "0"],
    ["sensor", "--server", "127.0.0.1:1", "--source", "digits", "--limit", "0"],
    ["sensor", "--server", "no port", "--source", "digits"],
    ["sensor"],
    ["sensor", "--server", "127.0.0.1:1"],
    ["sensor", "--server", "127.0.0.1:1", "--source", "digits", "--fps", "0"],
    ["sensor", "--server", "127.0.0.1:1", "--source", "digits", "--motion", "999"],
    ["sensor", "--server", "127.0.0.1:1", "--source", "digits", "--rate-control", "clever"],
    ["sensor", "--server", "127.0.0.1:1", "--source", "digits", "--max-age", "soon"],
    ["sensor", "--server", "127.0.0.1:1", "--source", "digits", "--budget", "0"],
    ["ctl", "rate", "budget", "cam", "little"],
    ["ctl", "rate", "auto", "cam", "--max-age", "2 parsecs"],
    ["sensor", "nosuch"],
    ["server", "--listen", "no port"],
    ["export", "checkpoint.pt", "--out", "b", "--step-rule", "best"],
    ["export", "checkpoint.pt", "--out", "b", "--clusters", "1"],
    ["train", "ce", "--data", "digits", "--out", "o", "--backbone", "vgg"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_use_is_status_2(arguments: list[str]) -> None:
    done = latentwire(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert "Usage" in done.err
    assert "Traceback" not in done.err


def test_settings_come_from_a_file_under_the_flags(tmp_path: Path) -> None:
    """Flag over environment over file over default."""
    config, path = tmp_path / "settings.toml", tmp_path / "rows.json"
    config.write_text('[evaluate]\nbundle = "digits"\ndata = "digits"\nrate_scale = [1.0]\nmodel = ["histogram"]\n')
    assert latentwire("--config", config, "evaluate", "--json", path, "--model", "gaussian").status == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["model"], row["rate_scale"]) == ("gaussian", 1.0)

"""Bundles: whole, verified, and refused by name otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_bundle

from latentwire.bundle import file_entry, load_bundle, sensor_digest
from latentwire.errors import (
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    BundleVersionError,
    UnknownVariantError,
)
from latentwire.model_file import parameters_from_bytes, parameters_to_bytes
from latentwire.operating_point import OperatingPoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle").path


def edit(folder: Path, change: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert load_bundle(folder).digest == bundle.digest
    variant = bundle.manifest.variant()
    parameters = bundle.codec_parameters("full", variant.default_model)
    again = parameters_from_bytes(parameters_to_bytes(parameters))
    points = [OperatingPoint.derive(p, "full", variant.default_model, 1.0) for p in (parameters, again)]
    assert points[0].digest == points[1].digest
    assert parameters_to_bytes(parameters) == parameters_to_bytes(again)


def test_a_sensor_needs_no_decoder_and_a_server_no_encoder(folder: Path) -> None:
    load_bundle(folder).decoder_path().unlink()
    load_bundle(folder, "sensor")
    with pytest.raises(BundleCorruptError, match="decoder"):
        load_bundle(folder, "server")


def test_the_sensors_digest_is_of_what_both_sides_must_hold_alike(folder: Path) -> None:
    """A replaced decoder, new tables or another default leave it; all that makes or codes a latent changes it."""
    manifest = load_bundle(folder).manifest
    variant = manifest.variant()
    other = file_entry("other", b"other")
    models = variant.models | {"gaussian": replace(variant.models["gaussian"], file=other)}

    def changed(**fields: Any) -> str:
        return sensor_digest(replace(manifest, variants={"full": replace(variant, **fields)}))

    ours = load_bundle(folder).sensor_digest
    assert changed(decoder=other) == changed(default_model="anchored") == ours
    assert sensor_digest(replace(manifest, training={"method": "upgrade"})) == ours
    different = [changed(encoder=other), changed(models=models), changed(d=5), changed(head=True)]
    different += [sensor_digest(replace(manifest, classes=manifest.classes[::-1]))]
    different += [sensor_digest(replace(manifest, input=replace(manifest.input, height=9)))]
    different += [sensor_digest(replace(manifest, variants=manifest.variants | {"small": variant}))]
    assert len({ours, *different}) == 1 + len(different)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="give a bundle folder"):
        load_bundle(tmp_path / "none")
    with pytest.raises(BundleNotFoundError, match=r"manifest\.json"):
        load_bundle(tmp_path)


def test_an_altered_file_is_refused(folder: Path) -> None:
    path = load_bundle(folder).encoder_path()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleCorruptError, match="sha256 differs"):
        load_bundle(folder)


@pytest.mark.parametrize("version", [0, 3, "1", None, True, 1.0, [1]])
def test_another_version_is_refused(folder: Path, version: object) -> None:
    edit(folder, lambda m: m.update(format_version=version))
    with pytest.raises(BundleVersionError, match="export it again"):
        load_bundle(folder)


def test_nesting_without_end_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format_version": ' + "[" * 100_000)
    with pytest.raises(BundleCorruptError):
        load_bundle(folder)


def test_a_file_of_another_size_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "encoder.onnx").open("ab") as file:
        file.truncate(1 << 40)  # a hole: reading it would take an hour
    with pytest.raises(BundleCorruptError, match="has 1099511627776 bytes, not"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "", "manifest.json", "a\\b", "a\0b", "a\u00e9", "x" * 300]
)
def test_files_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    edit(folder, lambda m: m["variants"]["full"]["encoder"].update(path=name))
    with pytest.raises(BundleCorruptError, match="plain file name"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("classes"),
        lambda m: m.update(classes=["one"]),
        lambda m: m.update(default_variant="other"),
        lambda m: m["input"].update(channels=2),
        lambda m: m["input"].update(height=0),
        lambda m: m["input"].update(width=10**9),
        lambda m: m["variants"]["full"].update(d="8"),
        lambda m: m["variants"]["full"].update(default_model="none"),
    ],
)
def test_malformed_manifests_are_refused(folder: Path, change: Any) -> None:
    edit(folder, change)
    with pytest.raises(BundleCorruptError):
        load_bundle(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\x80\x04not json")
    with pytest.raises(BundleCorruptError):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04\x95pickle"])
def test_a_model_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BundleCorruptError, match="no entropy model"):
        parameters_from_bytes(content)


def test_unknown_names(folder: Path) -> None:
    bundle = load_bundle(folder)
    with pytest.raises(UnknownVariantError, match="there are full"):
        bundle.codec_parameters("half", "gaussian")
    with pytest.raises(UnknownVariantError, match="gaussian"):
        bundle.codec_parameters("full", "none")


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    with pytest.raises(BundleError, match="something else"):
        make_bundle(tmp_path / "mine")
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]

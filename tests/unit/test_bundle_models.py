"""Bundles whose files are whole but whose entropy model is not one of ours: refused by name, wherever they are read."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import pytest
from command import latentwire

from latentwire.bundle import load_bundle
from latentwire.errors import BundleCorruptError
from latentwire.model_file import parameters_to_bytes
from latentwire.operating_point import OperatingPoints


def with_model(folder: Path, content: bytes) -> Path:
    """A bundle whose model ``anchored`` is ``content``, its sha256 in the manifest."""
    factories.make_bundle(folder)
    (folder / "anchored.npz").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["variants"]["full"]["models"]["anchored"]["file"]
    entry.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def falling_bits() -> bytes:
    parameters = factories.anchored_parameters()
    return parameters_to_bytes(
        replace(parameters, frontier=replace(parameters.frontier, bits=np.array([2.0, 20.0, 8.0])))
    )


def falling_rates() -> bytes:
    parameters = factories.anchored_parameters()
    path = parameters.frontier
    return parameters_to_bytes(replace(parameters, frontier=replace(path, rate_scale=path.rate_scale[::-1].copy())))


def of_an_older_format() -> bytes:
    """Without the arrays that came later."""
    with np.load(io.BytesIO(parameters_to_bytes(factories.anchored_parameters()))) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "choice_spread"}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept)
    return buffer.getvalue()


CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bits": (falling_bits, "frontier: not monotone"),
    "rate scale": (falling_rates, "rate scale must rise strictly"),
    "older": (of_an_older_format, "no entropy model"),
}


@pytest.mark.parametrize(("make", "says"), CASES.values(), ids=CASES)
def test_it_is_refused_by_name(make: Callable[[], bytes], says: str, tmp_path: Path) -> None:
    bundle = load_bundle(with_model(tmp_path / "b", make()))
    with pytest.raises(BundleCorruptError, match=says):
        OperatingPoints(bundle).get("full", "anchored", 2.0)
    assert OperatingPoints(bundle).get("full", "gaussian", 2.0).digest  # the other model is fine


def test_verify_says_so_in_one_line(tmp_path: Path) -> None:
    assert "not monotone" in latentwire("bundle", "verify", with_model(tmp_path / "b", falling_bits())).error

"""Deployed sensors rely on these bytes: the codec makes them, and reads them, with either coder.

If a test of ``v1.json`` or ``v2.json`` fails, that payload format is broken: mend the code, or make a new format
version. If only tests of ``shipped.json`` fail after a bundle was exported anew, run ``make golden``.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden.make import format_vectors, shipped_vectors
from golden.vectors import HERE, SHIPPED, Json, choice_of, parameters_from_json, sha256, spying, versioned

from latentwire.bundle import load_bundle, shipped_bundles
from latentwire.codec import coder
from latentwire.codec.parameters import PAYLOAD_FORMAT, TAILS, CodecParameters
from latentwire.codec.runs import MODES
from latentwire.operating_point import OperatingPoint

FORMATS = sorted(HERE.glob("v*.json"))
BY_FORMAT: dict[str, Json] = {path.stem: json.loads(path.read_text()) for path in FORMATS}
BUNDLES: dict[str, Json] = json.loads(SHIPPED.read_text())["bundles"]
MODELS = [(version, name) for version, vectors in BY_FORMAT.items() for name in vectors["models"]]
OF_BUNDLES = [(bundle, name) for bundle, models in BUNDLES.items() for name in models]


@pytest.fixture(params=coder.BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each coder that is installed."""
    if request.param == "constriction" and coder.constriction is None:
        pytest.skip("constriction is not installed")
    before = coder.in_use()
    coder.use(request.param)
    yield request.param
    coder.use(before)


def model_of(version: str, name: str) -> tuple[CodecParameters, Json]:
    """A model of a format's file, and all that stands there of it."""
    model = BY_FORMAT[version]["models"][name]
    return parameters_from_json(model["parameters"], BY_FORMAT[version]["payload_format"]), model


def check_case(parameters: CodecParameters, latents: list[list[float]], case: Json) -> None:
    """Latents to payload, and payload to indices."""
    start, images = case["start"], case["images"]
    latent = np.array(latents[start : start + images], np.float32)
    codec = (point := OperatingPoint.derive(parameters, "", "", case["rate_scale"])).codec
    assert point.digest.hex() == case["tables"]
    choice = choice_of(case)
    with spying() as spy:
        coded = codec.encode(latent, choice)
    symbols = spy.seen()
    assert sha256(coded.indices) == case["indices_sha256"]
    assert coded.indices.tolist() == case.get("indices", coded.indices.tolist())
    assert symbols.tolist() == case.get("symbols", symbols.tolist())
    assert sha256(symbols) == case["symbols_sha256"]
    assert coded.payload.hex() == case["payload"]
    assert coded.crc32 == case["crc32"]
    assert coded.saturated == case["saturated"]
    decoded = codec.decode(bytes.fromhex(case["payload"]), images, case["crc32"])
    assert np.array_equal(decoded.anchor, choice.anchor)
    assert np.array_equal(decoded.level, choice.level)
    assert sha256(decoded.indices) == case["indices_sha256"]


def test_every_format_that_is_supported_has_its_vectors() -> None:
    assert [versioned(number) for number in TAILS] == FORMATS
    assert [vectors["payload_format"] for vectors in BY_FORMAT.values()] == list(TAILS)
    assert max(TAILS) == PAYLOAD_FORMAT


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_the_format_is_what_it_was(version: str, name: str, backend: str) -> None:
    parameters, model = model_of(version, name)
    for case in model["cases"]:
        check_case(parameters, model["latents"], case)


def test_the_vectors_hold_every_trait_of_the_format() -> None:
    cases: list[Any] = [
        case for vectors in BY_FORMAT.values() for model in vectors["models"].values() for case in model["cases"]
    ]
    assert {case["run"] for case in cases} == set(range(MODES))
    assert {case["images"] for case in cases} >= {1, 4, 64}
    assert any(case["saturated"] for case in cases)
    assert any(not any(case["level"]) for case in cases) and any(all(case["level"]) for case in cases)
    largest = max(abs(index) for case in cases for row in case["indices"] for index in row)
    assert largest == 2**31 - 1
    assert sum("symbols" in case for case in cases) > 10


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_the_sensor_chooses_as_it_did(version: str, name: str) -> None:
    """No part of the format, for a decoder takes any choice; but a sensor that chooses otherwise should mean to."""
    (parameters, model), chosen = model_of(version, name), 0
    for case in model["cases"]:
        if case["rate_scale"] == 1.3:  # not the sensor's own choice: make.py
            continue
        latent = np.array(model["latents"], np.float32)[case["start"] : case["start"] + case["images"]]
        choice = OperatingPoint.derive(parameters, "", "", case["rate_scale"]).codec.choose(latent)
        assert choice.anchor.tolist() == case["anchor"]
        assert choice.level.tolist() == case["level"]
        assert choice.run == case["run"]
        chosen += 1
    assert chosen == 12


def test_the_shipped_bundles_are_those_of_the_vectors() -> None:
    assert sorted(BUNDLES) == shipped_bundles(), "run `make golden`"
    for name, models in BUNDLES.items():
        bundle = load_bundle(name)
        found = {
            f"{variant}/{model}": hashlib.sha256((bundle.path / entry.file.path).read_bytes()).hexdigest()
            for variant, spec in bundle.manifest.variants.items()
            for model, entry in spec.models.items()
        }
        stored = {key: model["sha256"] for key, model in models.items()}
        assert found == stored, f"the bundle {name} was exported anew: run `make golden`"


@pytest.mark.parametrize(("bundle", "name"), OF_BUNDLES)
def test_shipped_tables_are_the_same_over_the_knobs_whole_range(bundle: str, name: str) -> None:
    parameters = load_bundle(bundle).codec_parameters(*name.split("/"))
    stored: dict[str, str] = BUNDLES[bundle][name]["tables"]
    derived = {scale: OperatingPoint.derive(parameters, "", "", float(scale)).digest.hex() for scale in stored}
    assert derived == stored
    scales = [float(scale) for scale in stored]
    assert min(scales) == parameters.rate_min and max(scales) == parameters.rate_max and len(scales) > 24


@pytest.mark.parametrize(("bundle", "name"), OF_BUNDLES)
def test_shipped_bundles_code_as_they_did(bundle: str, name: str, backend: str) -> None:
    parameters = load_bundle(bundle).codec_parameters(*name.split("/"))
    for case in BUNDLES[bundle][name]["cases"]:
        check_case(parameters, BUNDLES[bundle][name]["latents"], case)


def test_make_golden_would_write_what_is_there() -> None:
    for number in TAILS:
        assert versioned(number).read_text() == format_vectors(number)
    assert SHIPPED.read_text() == shipped_vectors(), "run `make golden`"

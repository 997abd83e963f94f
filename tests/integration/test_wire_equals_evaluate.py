"""What comes back over the wire is what ``latentwire evaluate`` measures, image by image."""

import os
from pathlib import Path

import numpy as np
import pytest

from latentwire.bundle import load_bundle
from latentwire.datasets import load_test
from latentwire.local_run import stream, summarise
from training.evaluation import evaluate_bundle

DATA = os.environ.get("LATENTWIRE_DATA")
RATE_SCALE = 0.3


@pytest.mark.parametrize(
    "data",
    [
        "digits",
        pytest.param("cifar10", marks=pytest.mark.skipif(not DATA, reason="LATENTWIRE_DATA names no folder of CIFAR")),
    ],
)
def test_accuracy_and_bits_are_those_that_evaluate_prints(data: str) -> None:
    root = Path(DATA) if DATA else None
    dataset, bundle = load_test(data, root), load_bundle(data)
    options = ["--rate-scale", str(RATE_SCALE), *(["--data-root", str(root)] if root else [])]
    with stream(data, data, len(dataset.images), 64, options) as running:
        results = running.finish()
        (sent,) = summarise(results, running.relay)
    (row,) = evaluate_bundle(bundle, "full", dataset, ["anchored"], [RATE_SCALE])
    assert [r["sequence"] for r in results] == list(range(len(dataset.images)))
    assert sent["accuracy"] == pytest.approx(row.accuracy, abs=1e-12)
    assert sent["share_refined"] == pytest.approx(row.share_refined, abs=1e-12)
    assert sent["ideal_bits"] == pytest.approx(row.ideal_bits, abs=1e-6)
    assert sent["payload_bits"] == pytest.approx(row.payload_bits, abs=1e-9)
    assert sent["wire_bits"] > sent["grpc_bits"] > sent["payload_bits"] >= np.floor(sent["ideal_bits"])

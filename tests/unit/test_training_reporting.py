"""The report's numbers and pictures, from made-up records."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from latentwire.errors import DataError
from training.records import Record, add_records
from training.reporting import ReportConfig, local_classifiers, over_seeds, run_report

RECORD = Record(
    *("cifar10", "resnet18", 16, 1, "dense", 2, 16, "ce", "full", 0, 24, 1, 2),
    *("gaussian", 1.0, "", 100, 1.0, 40.0, 39.0, 39.5, 0.8, "abc", "box"),
)


def test_means_and_spread_over_seeds() -> None:
    records = [replace(RECORD, seed=seed, accuracy=accuracy) for seed, accuracy in ((0, 0.8), (1, 0.84))]
    records.append(replace(RECORD, method="ldr", model="anchored", accuracy=0.9))
    curves = over_seeds(records)
    (ce,), (ldr,) = curves["CE-T, 24 epochs"], curves["LDR-FT, 24 epochs"]
    assert ce.accuracy == pytest.approx(0.82)
    assert ce.spread == pytest.approx(0.04 / 2**0.5)
    assert (ce.bits, ce.seeds) == (40.0, 2)  # the paper's total entropy
    assert (ldr.bits, ldr.spread, ldr.seeds) == (39.0, 0.0, 1)  # the anchored code's ideal bits


def test_pictures_and_a_table_are_written(tmp_path: Path) -> None:
    records = [
        replace(RECORD, model=model, rate_scale=scale, distortion=distortion, variant=variant)
        for model in ("gaussian", "anchored")
        for scale in (0.5, 1.0)
        for distortion in ("", "rotation 30")
        for variant in ("full", "truncated")
    ]
    add_records(tmp_path / "cifar10.json", records)
    written = run_report(ReportConfig([tmp_path / "cifar10.json"], tmp_path / "out", ["digits"]))
    assert [path.name for path in written] == [
        *(f"cifar10-resnet18-w16-cut2-{kind}" for kind in ("rate.png", "distortions.png", "table.md")),
        "latent-spread.png",
    ]
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) > 300
    table = (tmp_path / "out" / "cifar10-resnet18-w16-cut2-table.md").read_text()
    assert "| CE-T, 24 epochs, truncated | paper's code | 0.5 | 40.00 | 80.00% | 1 |" in table
    assert "n = 100 test images; commits abc; box." in table


def test_beside_a_pair_stands_the_whole_classifier_that_costs_its_sensor_as_much() -> None:
    pair = replace(RECORD, sensor_macs=1000)
    local = replace(RECORD, cut=4, model="anchored", sensor_macs=1080, rate_scale=0.01, ideal_bits=3.3)
    others = [
        replace(local, rate_scale=4.0, ideal_bits=80.0),
        replace(local, sensor_macs=1200),
        replace(local, dataset="cifar100"),
        replace(local, distortion="rotation 30"),
        replace(local, cut=3),
    ]
    assert local_classifiers([pair, *others, local], pair) == [local]
    assert local_classifiers([pair, local], replace(local, d=8)) == [], "not beside itself"


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="latentwire measure"):
        run_report(ReportConfig([tmp_path / "none.json"], tmp_path))

"""``latentwire measure``: a bundle's operating points, on pictures as they are and distorted, as records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latentwire.bundle import Bundle, TableRow, load_bundle
from latentwire.datasets import Dataset
from latentwire.errors import DataError
from latentwire.report import meta
from training.data import load_split
from training.distortions import STRENGTHS, distort
from training.evaluation import decoder, encode_dataset, evaluate_bundle, sweep
from training.records import Record, add_records

# Between the paper's scalars where accuracy falls fast: curves are compared by straight lines between points.
FINER = tuple(2.0 ** (k / 4) for k in range(-14, 0) if k % 4)
DISTORTED_MODELS = ("gaussian", "anchored")  # a histogram quantizes as the Gaussian does


@dataclass(frozen=True, slots=True)
class MeasureConfig:
    """``bundle`` a folder or a shipped name; ``data`` a data set, read under ``root``; ``records`` the file that the
    records are added to; ``variant`` None for the bundle's default; ``distorted`` adds the distortions, at the top
    of each knob."""

    bundle: str
    data: str
    records: Path
    root: Path | None = None
    variant: str | None = None
    distorted: bool = True


def run_measure(config: MeasureConfig, progress: Callable[[str], None] = lambda _: None) -> list[Record]:
    """Measure and add the records; returns them. DataError for a bundle that does not say how it was trained."""
    bundle = load_bundle(config.bundle)
    variant = config.variant or bundle.manifest.default_variant
    test = load_split(config.data, config.root, "test")
    rows = _rows(bundle, variant, test, config, progress)
    records = [_record(bundle, variant, config.data, row, name) for row, name in rows]
    add_records(config.records, records)
    return records


def _rows(
    bundle: Bundle, variant: str, test: Dataset, config: MeasureConfig, progress: Callable[[str], None]
) -> Iterator[tuple[TableRow, str]]:
    progress("pictures as they are")
    decode = decoder(bundle, variant)

    def swept(images: Dataset, scales: Mapping[str, Sequence[float]]) -> Iterator[TableRow]:
        encoded = encode_dataset(bundle, variant, images)
        for model, at in scales.items():
            yield from sweep(bundle.codec_parameters(variant, model), model, variant, encoded, decode, at)

    for row in (*_table(bundle, variant, test, config), *swept(test, {"gaussian": FINER})):
        yield row, ""
    tops = {name: [bundle.codec_parameters(variant, name).rate_max] for name in DISTORTED_MODELS}
    for kind, strengths in STRENGTHS.items() if config.distorted else ():
        for strength in strengths:
            name = kind if "flip" in kind else f"{kind} {strength:g}"
            progress(name)
            distorted = replace(test, images=distort(test.images, kind, strength))
            yield from ((row, name) for row in swept(distorted, tops))


def _table(bundle: Bundle, variant: str, test: Dataset, config: MeasureConfig) -> Sequence[TableRow]:
    """The manifest's table where it was measured on these very images, at export, by the same code."""
    table = bundle.manifest.variant(variant).table
    of_these = bundle.manifest.training.get("data") == config.data
    if of_these and table and all(row.images == len(test) for row in table):
        return table
    return evaluate_bundle(bundle, variant, test)


def _record(bundle: Bundle, variant: str, data: str, row: TableRow, distortion: str) -> Record:
    trained, about = bundle.manifest.training, meta("measure")
    try:
        return Record(
            dataset=data,
            backbone=str(trained["backbone"]),
            width=int(str(trained["width"])),
            patch=int(str(trained.get("patch", 1))),
            bottleneck=str(trained.get("bottleneck", "dense")),
            cut=int(str(trained["cut"])),
            d=bundle.manifest.variant(variant).d,
            method=str(trained["method"]),
            variant=variant,
            seed=int(str(trained["seed"])),
            epochs=int(str(trained["epochs"])),
            sensor_macs=int(str(trained["sensor_macs"])),
            sensor_parameters=int(str(trained["sensor_parameters"])),
            model=row.model,
            rate_scale=row.rate_scale,
            distortion=distortion,
            images=row.images,
            share_refined=row.share_refined,
            total_entropy_bits=row.total_entropy_bits,
            ideal_bits=row.ideal_bits,
            payload_bits=row.payload_bits,
            accuracy=row.accuracy,
            commit=str(about["commit"]),
            machine=str(about["machine"]),
        )
    except KeyError as missing:
        raise DataError(f"{bundle.path}: its manifest does not say {missing}; export the bundle again") from None

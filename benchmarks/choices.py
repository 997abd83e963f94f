"""What the code's choices are worth: step rules, reconstruction, doubt, rounding. One bundle's own latents.

    python -m benchmarks.choices [--bundle cifar10] [--data-root DIR] [--json FILE]

Models are fitted anew on the training images' latents and compared on the test images. Quantization shows in the
quarter of the images that the sensor doubts most, all refined: ``divergence_bits`` is the mean Kullback-Leibler
divergence of the decoder's answer (all classes' probabilities) from its answer without quantization. It needs no
labels, is far less noisy than accuracy, and does not call a coarse code good because an anchor alone has the same
likeliest class. The paper's code (``histogram``) is compared on all images, for it refines all. Two curves are compared
by the bits an image at which they come equally near.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.codec import Subject, load_subject
from benchmarks.codec_targets import bits_at
from benchmarks.rounding import Rounding, dead_zone, nearest, rate_distortion
from latentwire.codec.choice import Choice, doubt, log_posterior
from latentwire.codec.latent_codec import LatentCodec
from latentwire.codec.parameters import CodecParameters
from latentwire.codec.quantizer import dequantize
from latentwire.datasets import Dataset
from latentwire.errors import DataError
from latentwire.operating_point import OperatingPoint
from latentwire.report import write_json
from training.data import load_split, split_validation
from training.evaluation import DecodeLatents, Encoded, ToldDecoder, answer, encode_dataset
from training.fit import fit_histogram
from training.fit_anchored import DOUBTED_SHARE, fit_anchored, path
from training.steps import STEP_RULES, StepRule, step_weights

STEP_SCALES = np.geomspace(0.35, 5.6, 9)
DIVERGENCES = (0.1, 0.03, 0.01)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)

Latents = NDArray[np.float32]
Reals = NDArray[np.float64]
Rows = list[dict[str, Any]]
CodecAt = Callable[[float], LatentCodec]


@dataclass(frozen=True, slots=True)
class Trial:
    """A test set to compare on, and what models are fitted to."""

    subject: Subject
    train: Encoded
    validation: Encoded
    decode: DecodeLatents


def main(
    bundle: str = "cifar10",
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    json: Path | None = None,
) -> None:
    """Compare and print."""
    trial = _trial(load_subject(bundle, None, data_root), data_root)
    anchored = fit_anchored(trial.train, trial.validation, trial.decode)
    paper = fit_histogram(trial.train.latent)
    console = Console(width=110)
    rows: Rows = []
    for part, curves in {
        "step rule": _step_rules(trial, anchored, paper),
        "reconstruction": _reconstructions(trial, anchored, paper),
        "rounding": _roundings(trial, anchored, paper),
    }.items():
        points = [{"part": part, "bundle": trial.subject.bundle.manifest.model_id} | point for point in curves]
        console.print(_curves_table(part, points))
        rows += points
    scores = [trial.subject.row("doubt") | row for row in _doubts(trial)]
    console.print(_doubt_table(scores))
    write_json(json, rows + scores)


def _trial(subject: Subject, data_root: Path | None) -> Trial:
    """Encode the images that the bundle was trained on, and those held out from them."""
    if isinstance(subject.decode, ToldDecoder):
        raise DataError("models are fitted to a decoder that is told nothing: give the bundle before its upgrade")
    trained = subject.bundle.manifest.training
    held, kept = int(str(trained["validation_images"])), int(str(trained["train_images"]))
    whole = load_split(str(trained["data"]), data_root, "train")
    splits: tuple[Dataset, Dataset] = split_validation(whole, held / (held + kept), int(str(trained["seed"])))
    train, validation = (encode_dataset(subject.bundle, None, split) for split in splits)
    return Trial(subject, train, validation, subject.decode)


def _anchored_at(trial: Trial, parameters: CodecParameters) -> CodecAt:
    """The anchored code with the doubted quarter refined, at any step scale."""

    def at(scale: float) -> LatentCodec:
        moved = replace(parameters, frontier=path(parameters, trial.validation, scale))
        return OperatingPoint.derive(moved, "", "", DOUBTED_SHARE).codec

    return at


def _paper_at(parameters: CodecParameters) -> CodecAt:
    return lambda scale: OperatingPoint.derive(parameters, "", "", scale).codec


def _step_rules(trial: Trial, anchored: CodecParameters, paper: CodecParameters) -> Rows:
    rows: Rows = []
    spread = trial.train.latent.std(0, dtype=np.float64)
    for name in STEP_RULES:
        rule: StepRule = name  # type: ignore[assignment]  # they are its names
        weights = step_weights(rule, trial.validation.latent, spread, trial.decode)
        rows += _curve(trial, "anchored", name, _anchored_at(trial, replace(anchored, weights=weights)))
        rows += _curve(trial, "histogram", name, _paper_at(replace(paper, weights=weights)))
    return rows


def _reconstructions(trial: Trial, anchored: CodecParameters, paper: CodecParameters) -> Rows:
    rows: Rows = []
    for name, centre in {"conditional mean": False, "centre of the bin": True}.items():
        rows += _curve(trial, "anchored", name, _anchored_at(trial, anchored), centre=centre)
        rows += _curve(trial, "histogram", name, _paper_at(paper), centre=centre)
    return rows


def _roundings(trial: Trial, anchored: CodecParameters, paper: CodecParameters) -> Rows:
    ways: dict[str, Rounding] = {"nearest": nearest}
    ways |= {f"dead zone {width}": partial(dead_zone, width=width) for width in (0.1, 0.2)}
    ways |= {f"rate-distortion {price}": partial(rate_distortion, price=price) for price in (0.03, 0.06, 0.12, 0.25)}
    rows: Rows = []
    for name, rounding in ways.items():
        rows += _curve(trial, "anchored", name, _anchored_at(trial, anchored), rounding)
        rows += _curve(trial, "histogram", name, _paper_at(paper), rounding)
    return rows


def _curve(
    trial: Trial, model: str, name: str, at: CodecAt, rounding: Rounding = nearest, centre: bool = False
) -> Rows:
    """Bits of a refined image and what they keep, at every step scale."""
    encoded, decode = trial.subject.encoded, trial.decode
    codec = at(1.0)
    posterior = log_posterior(codec.parameters, encoded.latent, encoded.head_logits)
    doubts = doubt(posterior)
    images = doubts >= np.quantile(doubts, 1 - DOUBTED_SHARE)
    latent, labels = encoded.latent[images], encoded.labels[images]
    anchor = posterior[images].argmax(axis=1).astype(np.int32)
    whole = _log_probabilities(decode(latent))
    rows: Rows = []
    for scale in STEP_SCALES.tolist():
        codec = at(scale)
        wanted = rounding(codec.tables, latent, codec.anchors[anchor], anchor)
        coded = codec.encode(wanted, Choice(anchor, np.ones_like(anchor)))
        decoded = codec.decode(coded.payload, coded.images, coded.crc32).latent
        if centre:
            decoded = dequantize(coded.indices.astype(np.float64), codec.anchors[anchor], codec.tables.step_size)
        given = _log_probabilities(decode(decoded))
        answers = given.argmax(axis=1)
        divergence = float((np.exp(whole) * (whole - given)).sum(axis=1).mean() / np.log(2))
        rows.append(
            {"model": model, "choice": name, "step_scale": scale, "images": len(answers)}
            | {"ideal_bits": float(coded.image_bits.mean()), "divergence_bits": divergence}
            | {"agreement": float(np.mean(answers == whole.argmax(axis=1)))}
            | {"accuracy": float(np.mean(answers == labels))}
            | {"full_accuracy": float(np.mean(whole.argmax(axis=1) == labels))}
        )
    return rows


def _log_probabilities(logits: Latents) -> Reals:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log: Reals = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log


def _doubts(trial: Trial) -> Rows:
    """Accuracy when the most doubted images, by each score, are refined without quantization."""
    encoded = trial.subject.encoded
    parameters = trial.subject.parameters("anchored")
    posterior = log_posterior(parameters, encoded.latent, encoded.head_logits)
    likely = np.sort(np.exp(posterior), axis=1)
    scores: dict[str, Reals] = {
        "margin of the two likeliest": doubt(posterior),
        "1 - the likeliest": 1 - likely[:, -1],
        "entropy": -(np.exp(posterior) * posterior).sum(axis=1),
        "ratio of the two likeliest": likely[:, -2] / likely[:, -1],
    }
    anchor = posterior.argmax(axis=1).astype(np.int32)
    labels = encoded.labels
    level = np.zeros(len(labels), np.int32)

    def decode(latent: Latents, anchor: NDArray[np.int32], level: NDArray[np.int32]) -> Latents:
        return trial.decode(latent)

    wrong = answer(encoded.latent, level, anchor, parameters.anchors, decode) != labels
    rows: Rows = []
    for name, score in scores.items():
        for share in SHARES:
            refined = score >= np.quantile(score, 1 - share)
            answers = answer(encoded.latent, refined.astype(np.int32), anchor, parameters.anchors, decode)
            rows.append(
                {"choice": name, "share_refined": float(refined.mean()), "images": len(labels)}
                | {"accuracy": float(np.mean(answers == labels))}
                | {"errors_refined": float(wrong[refined].sum() / wrong.sum())}
            )
    return rows


def _curves_table(part: str, rows: Rows) -> Table:
    table = Table(
        title=f"{part}: bits a refined image at which answers are so near those without quantization", box=None
    )
    for name in ("code", part):
        table.add_column(name)
    for divergence in DIVERGENCES:
        table.add_column(f"{divergence} bit", justify="right")
        table.add_column("", justify="right")
    for model in dict.fromkeys(row["model"] for row in rows):
        first: Sequence[float] = ()
        for choice in dict.fromkeys(row["choice"] for row in rows):
            own = [row for row in rows if (row["model"], row["choice"]) == (model, choice)]
            curve = [row | {"accuracy": -np.log(row["divergence_bits"])} for row in own]
            bits = [bits_at(curve, -np.log(divergence), "ideal_bits") for divergence in DIVERGENCES]
            first = first or bits
            cells = [(f"{b:.2f}", f"{b / f - 1:+.1%}") for b, f in zip(bits, first, strict=True)]
            table.add_row(model, choice, *(cell for pair in cells for cell in pair))
    return table


def _doubt_table(rows: Rows) -> Table:
    table = Table(title="doubt: accuracy, and the share of the anchors' errors among the refined", box=None)
    table.add_column("score")
    for share in SHARES:
        table.add_column(f"{share:.0%} refined", justify="right")
    for choice in dict.fromkeys(row["choice"] for row in rows):
        cells = [f"{r['accuracy']:.2%} ({r['errors_refined']:.1%})" for r in rows if r["choice"] == choice]
        table.add_row(choice, *cells)
    return table


if __name__ == "__main__":
    typer.run(main)

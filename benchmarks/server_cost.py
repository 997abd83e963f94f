"""What an image costs the server along the knob: payloads decoded and classified, images a second.

    python -m benchmarks.server_cost [--bundle digits --bundle cifar10] [--data-root DIR] [--json FILE]

The server's own pipeline, in this process and without the wire, as a worker thread runs it: micro-batches of 256 images
in messages of 64, the decoder in ONNX Runtime with one thread; seconds are one core's.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.codec import Subject, code_messages, load_subject
from benchmarks.timing import Spread, take_turns
from edge_server.answering import answer_jobs
from edge_server.pipeline import Job, Pipeline
from latentwire.bundle import shipped_bundles
from latentwire.errors import LatentwireError
from latentwire.messages import LatentBatch
from latentwire.report import write_json

IMAGES_PER_MESSAGE = 64
MESSAGES_PER_RUN = 4  # 256 images: the server's largest micro-batch
ROUNDS = 15
TARGET = 5.0


def main(
    bundle: Annotated[list[str] | None, typer.Option()] = None,
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    images: int = 2048,
    json: Path | None = None,
) -> None:
    """Measure and print."""
    rows = [
        row for name in bundle or shipped_bundles() for row in _measure(load_subject(name, None, data_root), images)
    ]
    Console(width=110).print(_table(rows))
    write_json(json, rows)


def _measure(subject: Subject, images: int) -> list[dict[str, Any]]:
    """Every knot of the default model's frontier, all in one run."""
    pipeline = Pipeline(subject.bundle, decoder_threads=1)
    model = subject.bundle.manifest.variant().default_model
    scales = subject.parameters(model).frontier.rate_scale.tolist()
    jobs = {scale: _jobs(pipeline, subject, model, scale, images) for scale in scales}
    tasks = {str(scale): lambda jobs=jobs[scale]: _answer(jobs) for scale in scales}
    seconds = take_turns(tasks, ROUNDS)
    slowest = seconds[str(scales[-1])]
    rows = []
    for scale in scales:
        count = sum(job.batch.images for job in jobs[scale])
        speed, ratio = Spread.of(count / seconds[str(scale)]), Spread.of(slowest / seconds[str(scale)])
        rows.append(
            subject.row("server")
            | {"model": model, "rate_scale": scale, "images": count, "images_per_message": IMAGES_PER_MESSAGE}
            | {"share_refined": _answer(jobs[scale]) / count}
            | {"images_per_s": speed.median, "images_per_s_low": speed.low, "images_per_s_high": speed.high}
            | {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
            | {"against": "the highest knob position"}
        )
    return rows


def _jobs(pipeline: Pipeline, subject: Subject, model: str, scale: float, images: int) -> list[Job]:
    """The first ``images`` test images as what the server gets from its streams."""
    served = pipeline.derive(subject.variant, model, scale)
    jobs: list[Job] = []
    for message in code_messages(served.point.codec, subject.encoded, IMAGES_PER_MESSAGE):
        batch = LatentBatch(IMAGES_PER_MESSAGE * len(jobs), message.images, 1, message.payload, message.crc32)
        jobs.append(Job(served, batch))
        if IMAGES_PER_MESSAGE * len(jobs) >= images:
            break
    return jobs


def _answer(jobs: list[Job]) -> int:
    """Answer all jobs; how many images were refined."""
    refined = 0
    for start in range(0, len(jobs), MESSAGES_PER_RUN):
        for answered in answer_jobs(jobs[start : start + MESSAGES_PER_RUN]):
            if isinstance(answered, LatentwireError):
                raise answered
            refined += answered.refined
    return refined


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="images a second that the server answers, medians and quartiles", box=None)
    for name in ("data", "rate scale", "refined", "images/s", "quartiles", "times the highest's", "quartiles"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["data"]),
            f"{row['rate_scale']:g}",
            f"{row['share_refined']:.1%}",
            f"{row['images_per_s']:,.0f}",
            f"{row['images_per_s_low']:,.0f} to {row['images_per_s_high']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}",
        )
    lowest = [max(r["ratio"] for r in rows if r["bundle"] == b) for b in dict.fromkeys(r["bundle"] for r in rows)]
    table.caption = f"wanted at the lowest knob position: {TARGET:g}; found {', '.join(f'{r:.1f}' for r in lowest)}"
    return table


if __name__ == "__main__":
    typer.run(main)

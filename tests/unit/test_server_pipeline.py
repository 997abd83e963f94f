"""From payloads to results in a worker thread."""

from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import pytest

from edge_server.answering import answer_jobs
from edge_server.decoder import Decoder, most_likely
from edge_server.pipeline import Answered, Job, Pipeline
from latentwire.bundle import Bundle
from latentwire.codec.bulk import Coded
from latentwire.errors import (
    ChecksumError,
    CorruptPayloadError,
    InferenceError,
    LatentwireError,
    RateScaleError,
    TableDigestError,
    UnknownVariantError,
)
from latentwire.messages import LatentBatch, OperatingPointName


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b", variants=("full", "other"))


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, decoder_threads=1)


class CountingDecoder:
    """Stands in for a decoder and notes how many latents each run held."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.conditions = decoder.conditions
        self.runs: list[int] = []

    def run(self, latent: np.ndarray, conditions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        self.runs.append(len(latent))
        return self._decoder.run(latent, conditions)


def make_job(
    pipeline: Pipeline, model: str, rate_scale: float, images: int, seed: int = 0, variant: str = "full"
) -> tuple[Job, np.ndarray, np.ndarray]:
    """A job, the labels of its images and the levels they were coded at."""
    pixels, labels = factories.make_images(images, seed)
    served = pipeline.derive(variant, model, rate_scale)
    latent = factories.make_latents(pixels)
    encoded = served.point.codec.encode(latent, served.point.codec.choose(latent))
    batch = LatentBatch(100 * seed, images, 1, encoded.payload, encoded.crc32)
    return Job(served, batch), labels, encoded.level


def counted(*jobs: Job) -> tuple[list[Job], CountingDecoder]:
    counting = CountingDecoder(jobs[0].served.decoder)
    return [replace(job, served=replace(job.served, decoder=counting)) for job in jobs], counting  # type: ignore[arg-type]


def sound(answer: Answered | LatentwireError) -> Answered:
    assert isinstance(answer, Answered), answer
    return answer


def test_the_refined_images_of_all_jobs_share_one_decoder_run(pipeline: Pipeline) -> None:
    made = [make_job(pipeline, "gaussian", 8.0, images, seed) for seed, images in enumerate((5, 1, 7))]
    jobs, decoder = counted(*(job for job, _, _ in made))
    answers = [sound(answer) for answer in answer_jobs(jobs)]
    assert decoder.runs == [13]
    for answer, (job, labels, _) in zip(answers, made, strict=True):
        assert answer.results.first_sequence == job.batch.first_sequence
        assert answer.results.labels == tuple(labels.tolist())
        assert answer.refined == len(labels)


def test_probabilities_are_the_decoders_softmax(pipeline: Pipeline) -> None:
    job, _, _ = make_job(pipeline, "gaussian", 8.0, 6)
    decoded = job.served.point.codec.decode(job.batch.payload, 6, job.batch.crc32)
    logits = factories.ANCHOR * decoded.latent.astype(np.float64)  # the bias is the same for all classes
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    (answer,) = answer_jobs([job])
    assert sound(answer).results.probabilities == pytest.approx(softmax.max(axis=1).tolist(), rel=1e-5)


def test_images_at_level_0_are_answered_without_a_decoder_run(pipeline: Pipeline) -> None:
    job, labels, level = make_job(pipeline, "anchored", factories.RATE_MIN, 20)
    assert not level.any()
    jobs, decoder = counted(job)
    (answer,) = answer_jobs(jobs)
    assert decoder.runs == []
    assert sound(answer).results.labels == tuple(labels.tolist())  # the test's anchors are the classes
    assert sound(answer).refined == 0
    of_anchors = Decoder(pipeline.bundle.decoder_path(), factories.D, factories.D, 1)
    _, probability = of_anchors.run(factories.ANCHOR * np.eye(factories.D, dtype=np.float32))
    assert set(sound(answer).results.probabilities) <= set(probability.tolist())


def test_a_mixed_batch_runs_the_decoder_on_its_refined_images_only(pipeline: Pipeline) -> None:
    job, labels, level = make_job(pipeline, "anchored", factories.RATE_DEFAULT, 200)
    refined = int(level.sum())
    assert 0 < refined < 200
    jobs, decoder = counted(job)
    (answer,) = answer_jobs(jobs)
    assert decoder.runs == [refined]
    assert sound(answer).refined == refined
    assert np.mean(np.array(sound(answer).results.labels) == labels) > 0.95
    alone = sound(answer_jobs([job])[0]).results
    assert alone == sound(answer).results


def test_jobs_of_two_variants_are_answered_together(pipeline: Pipeline) -> None:
    one, labels, _ = make_job(pipeline, "gaussian", 8.0, 4, seed=1)
    two, more_labels, _ = make_job(pipeline, "gaussian", 4.0, 4, seed=2, variant="other")
    first, second = answer_jobs([one, two])
    assert sound(first).results.labels == tuple(labels.tolist())
    assert sound(second).results.labels == tuple(more_labels.tolist())


def test_a_bad_payload_is_refused_alone(pipeline: Pipeline) -> None:
    good, labels, _ = make_job(pipeline, "gaussian", 8.0, 4)
    bad = replace(good, batch=replace(good.batch, crc32=good.batch.crc32 ^ 1))
    before, refused, after = answer_jobs([good, bad, good])
    assert isinstance(refused, ChecksumError)
    assert sound(before).results.labels == sound(after).results.labels == tuple(labels.tolist())
    (only,) = answer_jobs([bad])
    assert isinstance(only, ChecksumError)


def test_an_unforeseen_decoding_error_is_refused_alone(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def decode_many(self, messages: list[Coded]) -> None:
            raise ZeroDivisionError

    good, _, _ = make_job(pipeline, "gaussian", 8.0, 4)
    point = replace(good.served.point, codec=Broken())  # type: ignore[arg-type]
    bad = replace(good, served=replace(good.served, point=point))
    refused, fine = answer_jobs([bad, good])
    assert isinstance(refused, CorruptPayloadError)
    assert sound(fine).refined == 4
    assert "unforeseen error" in caplog.text


def test_operating_points_are_verified_by_their_digest(pipeline: Pipeline) -> None:
    served = pipeline.derive("full", "gaussian", 3.0)
    name = OperatingPointName(1, "full", "gaussian", 3.0, served.point.digest)
    assert pipeline.verify([name])[0].point is served.point
    with pytest.raises(TableDigestError, match="full/gaussian at rate scale 3 differ"):
        pipeline.verify([name, replace(name, digest=bytes(8))])
    with pytest.raises(RateScaleError):
        pipeline.verify([replace(name, rate_scale=float("nan"))])
    with pytest.raises(UnknownVariantError):
        pipeline.verify([replace(name, variant="none")])
    with pytest.raises(UnknownVariantError):
        pipeline.verify([replace(name, model="none")])


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(InferenceError, match=r"decoder\.onnx cannot be loaded"):
        Decoder(path, 4, 4)


def test_a_provider_that_is_not_there_is_named(bundle: Bundle) -> None:
    with pytest.raises(InferenceError, match="no provider 'NoSuchProvider'; it has .*CPUExecutionProvider"):
        Decoder(bundle.decoder_path(), factories.D, factories.D, provider="NoSuchProvider")


def test_an_encoder_is_no_decoder(bundle: Bundle) -> None:
    with pytest.raises(InferenceError, match="is no decoder"):
        Decoder(bundle.encoder_path(), 4, 4)


def test_a_decoder_of_other_classes_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InferenceError, match="the manifest names 5 classes"):
        Decoder(bundle.decoder_path(), 4, 5)


def test_a_decoder_of_another_width_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InferenceError, match="cannot be run"):
        Decoder(bundle.decoder_path(), 7, 4)


def test_labels_and_probabilities_of_odd_logits() -> None:
    logits = np.array([[0, 0], [1e4, -1e4], [np.nan, 1], [np.inf, 1], [-5, -4]], np.float32)
    label, probability = most_likely(logits)
    assert label[[1, 4]].tolist() == [0, 1]
    assert probability == pytest.approx([0.5, 1.0, 0.0, 0.0, 1 / (1 + np.exp(-1))])

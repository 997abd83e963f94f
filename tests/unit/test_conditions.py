"""What a decoder is told beside the latent: the same numbers on the server and where it is measured."""

from pathlib import Path

import factories
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_server.answering import answer_jobs
from edge_server.decoder import Decoder
from edge_server.pipeline import Answered, Job, Pipeline
from latentwire.bundle import Bundle
from latentwire.datasets import Dataset
from latentwire.errors import InferenceError
from latentwire.messages import LatentBatch
from latentwire.operating_point import OperatingPoint
from training.evaluation import at_point, decoder, encode_dataset, measure

WIDTH = 2 + factories.D


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    old = factories.make_bundle(folder / "old", variants=("full", "other"))
    return factories.replace_decoder(old, folder / "new", factories.told_decoder_onnx())


def point_at(model: str, rate_scale: float) -> OperatingPoint:
    parameters = {"anchored": factories.anchored_parameters(), "gaussian": factories.gaussian_parameters()}[model]
    return OperatingPoint.derive(parameters, "full", model, rate_scale)


def test_a_row_is_level_rate_scale_and_the_anchors_place() -> None:
    anchor, level = np.array([2, 0], np.int32), np.array([0, 1], np.int32)
    rows = point_at("anchored", 4.0).conditions(anchor, level, WIDTH)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[0, 2, 0, 0, 1, 0], [1, 2, 1, 0, 0, 0]]


def test_a_model_of_one_anchor_names_none() -> None:
    one = np.ones(2, np.int32)
    assert point_at("gaussian", 0.5).conditions(0 * one, one, WIDTH).tolist() == [[1, -1, 0, 0, 0, 0]] * 2


def test_a_decoder_of_other_anchors_is_refused() -> None:
    with pytest.raises(InferenceError, match="the decoder knows 3 anchors, but full/anchored has 4"):
        point_at("anchored", 1.0).conditions(np.zeros(1, np.int32), np.zeros(1, np.int32), 5)


def told_logits(latent: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    logits: np.ndarray = factories.ANCHOR * latent - factories.ANCHOR**2 / 2 + conditions @ factories.TOLD
    return logits


def test_the_servers_answers_are_of_what_it_knows(bundle: Bundle) -> None:
    """Jobs of several points and models in one run: every image gets its own conditions, anchors theirs."""
    pipeline = Pipeline(bundle, decoder_threads=1)
    made = [("anchored", 1.0), ("anchored", 2.0), ("gaussian", 3.0), ("anchored", 8.0)]
    jobs = []
    for seed, (model, scale) in enumerate(made):
        served = pipeline.derive("full", model, scale)
        latent = factories.make_latents(factories.make_images(50, seed)[0])
        coded = served.point.codec.encode(latent, served.point.codec.choose(latent))
        jobs.append(Job(served, LatentBatch(0, 50, 1, coded.payload, coded.crc32)))
    levels = set()
    for job, answered in zip(jobs, answer_jobs(jobs), strict=True):
        assert isinstance(answered, Answered)
        decoded = job.served.point.codec.decode(job.batch.payload, 50, job.batch.crc32)
        logits = told_logits(decoded.latent, job.served.point.conditions(decoded.anchor, decoded.level, WIDTH))
        assert answered.results.labels == tuple(logits.argmax(1).tolist())
        softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert answered.results.probabilities == pytest.approx(softmax.max(1).tolist(), rel=1e-5)
        levels |= set(decoded.level.tolist())
    assert levels == {0, 1}


def test_answers_to_bare_anchors_follow_the_rate_scale(bundle: Bundle) -> None:
    pipeline = Pipeline(bundle, decoder_threads=1)
    low, high = (pipeline.derive("full", "anchored", scale).anchors for scale in (0.5, 8.0))
    assert not np.array_equal(low.probability, high.probability)
    assert pipeline.derive("full", "anchored", 0.5).anchors is low  # asked once


def test_measured_is_what_the_server_answers(bundle: Bundle) -> None:
    images, labels = factories.make_images(120, 7)
    encoded = encode_dataset(bundle, "full", Dataset("q", images, labels, factories.CLASSES))
    pipeline = Pipeline(bundle, decoder_threads=1)
    for model, scale in (("anchored", 2.0), ("gaussian", 0.5)):
        served = pipeline.derive("full", model, scale)
        coded = served.point.codec.encode(encoded.latent, served.point.codec.choose(encoded.latent))
        (answered,) = answer_jobs([Job(served, LatentBatch(0, 120, 1, coded.payload, coded.crc32))])
        assert isinstance(answered, Answered)
        measured = measure(served.point, encoded, decoder(bundle, "full"), images_per_message=120)
        assert answered.results.labels == tuple(measured.answers.tolist())
        anchors = served.point.codec.anchors
        every = np.arange(len(anchors), dtype=np.int32)
        logits = at_point(decoder(bundle, "full"), served.point)(anchors, every, 0 * every)
        np.testing.assert_allclose(
            logits, told_logits(anchors, served.point.conditions(every, 0 * every, WIDTH)), rtol=1e-5
        )


@pytest.mark.parametrize("shape", [["N", "C"], ["N", 1], ["N"]])
def test_conditions_of_no_fixed_width_are_refused(tmp_path: Path, shape: list[str | int]) -> None:
    graph = onnx.load_from_string(factories.told_decoder_onnx())
    graph.graph.input[1].CopyFrom(helper.make_tensor_value_info("conditions", TensorProto.FLOAT, shape))
    path = tmp_path / "decoder.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(InferenceError, match=r"decoder\.onnx"):
        Decoder(path, factories.D, factories.D)


def test_a_bundle_whose_decoder_knows_other_anchors_is_not_served(bundle: Bundle, tmp_path: Path) -> None:
    """Not at the first image, but when the server loads it."""
    other = factories.replace_decoder(bundle, tmp_path / "b", factories.told_decoder_onnx(places=factories.D + 1))
    with pytest.raises(InferenceError, match="the decoder knows 5 anchors"):
        Pipeline(other, decoder_threads=1)

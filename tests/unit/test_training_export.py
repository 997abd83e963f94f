"""training.onnx_export and inference: the files say what torch says, and nothing about where they were made."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from latentwire.errors import CheckpointError, InferenceError, TrainingError
from training import onnx_export
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.inference import OnnxGraph, latents
from training.models import Pair, PairConfig, make_pair
from training.onnx_export import ExportedPair, export_onnx, load_pair

CONFIG = PairConfig(image=(8, 8, 1), classes=4, width=4, hidden=32, d=5, grid=2)


def images_for(config: PairConfig, count: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (count, *config.image), np.uint8)


def make_checkpoint(path: Path, config: PairConfig) -> Path:
    """A checkpoint of a pair whose batch normalisation has seen some images."""
    torch.manual_seed(0)
    pair: Pair = make_pair(config)
    with torch.no_grad():
        for _ in range(20):
            pair(torch.from_numpy(images_for(config, 16)))
    classes = tuple(f"class {n}" for n in range(config.classes))
    state = {"pair": pair.state_dict()}
    save_checkpoint(path, Checkpoint("ce", {"seed": 0}, config.to_dict(), classes, 1, 0, state, []))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("export") / "checkpoint.pt", CONFIG)


@pytest.fixture(scope="module")
def exports(checkpoint: Path) -> dict[bool, ExportedPair]:
    """The pair exported once in halves and once in full: an export takes seconds."""
    images = images_for(CONFIG)
    return {half: export_onnx(checkpoint, checkpoint.parent / str(half), images, half) for half in (True, False)}


@pytest.mark.parametrize("half", [True, False])
def test_exported_halves_give_what_torch_gives(checkpoint: Path, exports: dict[bool, ExportedPair], half: bool) -> None:
    images, exported = images_for(CONFIG), exports[half]
    assert exported.pair == CONFIG
    assert exported.classes == ("class 0", "class 1", "class 2", "class 3")
    assert exported.difference < (2e-2 if half else 1e-4)
    with torch.inference_mode():
        logits, encoded = load_pair(load_checkpoint(checkpoint))(torch.from_numpy(images))
    latent, head_logits = latents(exported.encoder, images)
    assert encoded.head_logits is not None
    assert head_logits is not None
    tolerance = 2e-2 if half else 1e-4
    for got, wanted in ((latent, encoded.latent), (head_logits, encoded.head_logits)):
        assert np.abs(got - wanted.numpy()).max() <= tolerance * wanted.abs().max()
    answers = OnnxGraph(exported.decoder).run(latent)["logits"]
    assert np.abs(answers - logits.numpy()).max() <= tolerance * logits.abs().max()


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, image=(33, 21, 3), grid=4, head=False, decoder="transposed"),
        replace(CONFIG, image=(64, 64, 3), cut=3),
        replace(CONFIG, image=(32, 32, 3), patch=2),
        replace(CONFIG, image=(32, 32, 3), grid=1, bottleneck="spatial"),
    ],
)
def test_other_sizes_and_shapes_export_too(tmp_path: Path, config: PairConfig) -> None:
    exported = export_onnx(make_checkpoint(tmp_path / "c.pt", config), tmp_path / "onnx", images_for(config))
    latent, head_logits = latents(exported.encoder, images_for(config, 3))
    assert latent.shape == (3, 5)
    assert (head_logits is None) == (not config.head)


def test_the_graphs_keep_the_contract(exports: dict[bool, ExportedPair]) -> None:
    exported = exports[True]

    def described(path: Path, of: str) -> list[tuple[str, int, list[str | int]]]:
        found = []
        for value in getattr(onnx.load(path).graph, of):
            kind = value.type.tensor_type
            found.append((value.name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]))
        return found

    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    assert described(exported.encoder, "input") == [("image", uint8, ["n", 8, 8, 1])]
    assert described(exported.encoder, "output") == [
        ("latent", float32, ["n", 5]),
        ("head_logits", float32, ["n", 4]),
    ]
    assert described(exported.decoder, "input") == [("latent", float32, ["n", 5])]
    assert described(exported.decoder, "output") == [("logits", float32, ["n", 4])]
    assert sorted(path.name for path in exported.encoder.parent.iterdir()) == ["decoder.onnx", "encoder.onnx"]


def test_any_number_of_images_gives_the_same_latents(exports: dict[bool, ExportedPair]) -> None:
    encoder = exports[True].encoder
    images = images_for(CONFIG, 23)
    whole, _ = latents(encoder, images)
    for batch in (1, 7):
        np.testing.assert_allclose(latents(encoder, images, batch)[0], whole, rtol=1e-4, atol=1e-5)
    none, head_logits = latents(encoder, images[:0])
    assert none.shape == (0, 5)
    assert head_logits is not None
    assert head_logits.shape == (0, 4)


def test_halves_halve_the_file(exports: dict[bool, ExportedPair]) -> None:
    assert exports[True].decoder.stat().st_size < 0.6 * exports[False].decoder.stat().st_size


def test_files_are_the_same_each_time_and_tell_no_path(
    checkpoint: Path, exports: dict[bool, ExportedPair], tmp_path: Path
) -> None:
    first, second = exports[True], export_onnx(checkpoint, tmp_path)
    for half in ("encoder", "decoder"):
        content = getattr(first, half).read_bytes()
        assert content == getattr(second, half).read_bytes()
        model = onnx.load_model_from_string(content)
        nodes = list(model.graph.node)
        assert not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in nodes)
        for trace in (b".py", b"site-packages", b"torch.nn", str(Path.cwd()).encode(), b"/tmp/"):
            assert trace not in content


def test_a_graph_that_differs_from_torch_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = onnx_export.graph_bytes

    def graph(module: torch.nn.Module, *rest: object) -> bytes:
        with torch.no_grad():
            next(module.parameters()).mul_(1.5)
        content = spoilt(module, *rest)  # type: ignore[arg-type]
        with torch.no_grad():
            next(module.parameters()).div_(1.5)
        return content

    monkeypatch.setattr(onnx_export, "graph_bytes", graph)
    with pytest.raises(TrainingError, match=r"the exported graphs differ from torch by .*\(at most 0.001\)"):
        export_onnx(checkpoint, tmp_path, images_for(CONFIG), half=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "c.pt", CONFIG)
    saved = load_checkpoint(path)
    saved.state["pair"]["decoder.classify.bias"].fill_(float("nan"))
    save_checkpoint(path, saved)
    with pytest.raises(TrainingError, match="differ from torch by nan"):
        export_onnx(path, tmp_path / "out", images_for(CONFIG))


def test_images_of_another_size_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(N, 8, 8, 1\), not \(4, 9, 8, 1\)"):
        export_onnx(checkpoint, tmp_path, np.zeros((4, 9, 8, 1), np.uint8))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        export_onnx(tmp_path / "missing.pt", tmp_path)


def test_an_out_that_is_a_file(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(CheckpointError, match="the graphs cannot be written to"):
        export_onnx(checkpoint, tmp_path / "out")


def test_graphs_that_cannot_be_run(exports: dict[bool, ExportedPair], tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InferenceError, match="text.onnx cannot be loaded"):
        OnnxGraph(tmp_path / "text.onnx")
    with pytest.raises(InferenceError, match="cannot be loaded"):
        OnnxGraph(tmp_path / "missing.onnx")
    exported = exports[True]
    with pytest.raises(InferenceError, match=r"encoder.onnx failed on uint8 \(2, 9, 9, 1\)"):
        OnnxGraph(exported.encoder).run(np.zeros((2, 9, 9, 1), np.uint8))
    with pytest.raises(InferenceError, match="has no output 'latent': it is no encoder"):
        latents(exported.decoder, np.zeros((2, 5), np.float32))  # type: ignore[arg-type]

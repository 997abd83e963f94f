"""The shipped digits with a second variant that has half of the latent: cut by hand in seconds, without training.

``latentwire truncate`` cuts and fine-tunes; here the decoder sees the means of the entries that are not sent.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latentwire.bundle import Bundle, FileEntry, Variant, file_entry, load_bundle, write_bundle
from latentwire.codec.parameters import CodecParameters
from latentwire.model_file import parameters_from_bytes, parameters_to_bytes


def with_truncated(folder: Path, keep: int) -> Bundle:
    """Write the bundle into ``folder``; its variant ``truncated`` has the first ``keep`` entries of the latent."""
    digits = load_bundle("digits")
    files = {entry.path: (digits.path / entry.path).read_bytes() for entry in digits.manifest.files()}
    full = digits.manifest.variant("full")
    models = {name: parameters_from_bytes(files[entry.file.path]) for name, entry in full.models.items()}
    left_out = np.average(models["anchored"].anchors, axis=0, weights=models["anchored"].anchor_counts)[keep:]
    made = {
        "truncated-encoder.onnx": _encoder(files[full.encoder.path], keep),
        "truncated-decoder.onnx": _decoder(files[full.decoder.path], left_out.astype(np.float32), keep),
    }
    made |= {f"truncated-{name}.npz": parameters_to_bytes(_cut(model, keep)) for name, model in models.items()}
    variants = {"full": full, "truncated": _variant(full, keep, made)}
    return write_bundle(folder, replace(digits.manifest, variants=variants), files | made)


def _variant(full: Variant, keep: int, made: dict[str, bytes]) -> Variant:
    def entry(name: str) -> FileEntry:
        return file_entry(f"truncated-{name}", made[f"truncated-{name}"])

    models = {name: replace(model, file=entry(f"{name}.npz")) for name, model in full.models.items()}
    encoder, decoder = entry("encoder.onnx"), entry("decoder.onnx")
    return replace(full, d=keep, encoder=encoder, decoder=decoder, models=models, table=())


def _cut(model: CodecParameters, keep: int) -> CodecParameters:
    of_entries = ("anchors", "weights", "location", "spread", "shape_of", "choice_spread")
    return replace(model, **{name: getattr(model, name)[..., :keep] for name in of_entries})


def _encoder(content: bytes, keep: int) -> bytes:
    model = onnx.load_from_string(content)
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["whole" if name == "latent" else name for name in names]
    _constants(graph, {"from": np.array([0]), "to": np.array([keep]), "axis": np.array([1])})
    graph.node.append(helper.make_node("Slice", ["whole", "from", "to", "axis"], ["latent"]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", keep]))
    return _checked(model)


def _decoder(content: bytes, left_out: np.ndarray, keep: int) -> bytes:
    """``left_out`` (d - keep,) float32 goes in the place of what is not sent."""
    model = onnx.load_from_string(content)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["whole" if name == "latent" else name for name in node.input]
    zeros = np.array([0, 0, 0, len(left_out)])
    _constants(graph, {"room": zeros, "rest": np.concatenate([np.zeros(keep, np.float32), left_out])})
    graph.node.insert(0, helper.make_node("Pad", ["latent", "room"], ["padded"]))
    graph.node.insert(1, helper.make_node("Add", ["padded", "rest"], ["whole"]))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", keep]))
    return _checked(model)


def _constants(graph: onnx.GraphProto, arrays: dict[str, np.ndarray]) -> None:
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())


def _checked(model: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content

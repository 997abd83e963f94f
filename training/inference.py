"""Exported graphs in ONNX Runtime, over whole data sets: no torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from latentwire.errors import InferenceError

BATCH = 256  # images a run: more costs memory and saves no time


class OnnxGraph:
    """An encoder or a decoder, exported; ``threads`` are ONNX Runtime's, None for its own choice.

    ``conditions`` is how many conditions an image a decoder takes beside the latent, 0 for none. InferenceError if
    the file is missing, or no graph of one input and perhaps conditions.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own many kinds, without a common base
            raise InferenceError(f"{path} cannot be loaded ({_line(error)}): export it again") from error
        self._path = path
        inputs = self._session.get_inputs()
        if not inputs or [given.name for given in inputs[1:]] not in ([], ["conditions"]):
            names = [given.name for given in inputs]
            raise InferenceError(f"{path} takes {names}: it is no encoder or decoder")
        self._input = inputs[0].name
        self.conditions: int = inputs[1].shape[1] if len(inputs) > 1 else 0
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(
        self, values: NDArray[Any], batch: int = BATCH, conditions: NDArray[np.float32] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Each output, (N, ...) float32, by name.

        ``values`` are images (N, H, W, C) uint8 for an encoder, latents (N, d) float32 for a decoder; N may be 0.
        ``conditions`` (N, ``self.conditions``) float32 go with the latents of a decoder that takes them.
        InferenceError if the graph cannot take them.
        """
        parts = [
            self._run(values[start : start + batch], None if conditions is None else conditions[start : start + batch])
            for start in range(0, max(len(values), 1), batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def _run(self, values: NDArray[Any], conditions: NDArray[np.float32] | None) -> dict[str, NDArray[np.float32]]:
        given = {self._input: np.ascontiguousarray(values)}
        if conditions is not None:
            given["conditions"] = conditions
        try:
            outputs = self._session.run(None, given)
        except Exception as error:  # as above
            raise InferenceError(f"{self._path} failed on {values.dtype} {values.shape}: {_line(error)}") from error
        return {name: np.asarray(v, np.float32) for name, v in zip(self.outputs, outputs, strict=True)}


def latents(
    encoder: Path, images: NDArray[np.uint8], batch: int = BATCH
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """What the exported ``encoder`` makes of ``images`` (N, H, W, C) uint8: the latent (N, d) float32, and the head's
    logits (N, K) float32, None where it has no head. InferenceError if it cannot.
    """
    outputs = OnnxGraph(encoder).run(images, batch)
    if "latent" not in outputs:
        raise InferenceError(f"{encoder} has no output 'latent': it is no encoder")
    return outputs["latent"], outputs.get("head_logits")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

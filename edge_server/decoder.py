"""The decoder half of a pair, in ONNX Runtime."""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from latentwire.errors import InferenceError
from latentwire.operating_point import PLAIN_CONDITIONS

CPU = "CPUExecutionProvider"
WARM_UP_IMAGES = (1, 16)


class Decoder:
    """latent (N, d) float32 -> label and its probability. Threads may share it.

    ``conditions`` is how many conditions an image it takes beside the latent, 0 for none.
    """

    def __init__(self, path: Path, d: int, classes: int, threads: int = 0, provider: str = CPU) -> None:
        """Load ``decoder.onnx`` and run it once; ``threads`` 0 takes one a core. Raises InferenceError.

        ``provider`` is ONNX Runtime's execution provider, by its own name; what it cannot run, the processor does.
        """
        if provider not in ort.get_available_providers():
            there = ", ".join(ort.get_available_providers())
            raise InferenceError(
                f"this ONNX Runtime has no provider {provider!r}; it has {there}: install another build"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning pool would take the cores from entropy decoding and the event loop between two runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._path = path
        self._classes = classes
        try:
            self._session = ort.InferenceSession(str(path), options, providers=list(dict.fromkeys([provider, CPU])))
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise InferenceError(f"{path} cannot be loaded: {_first_line(error)}; fetch the bundle again") from error
        inputs = self._session.get_inputs()
        names = [i.name for i in inputs], [o.name for o in self._session.get_outputs()]
        if names[0] not in (["latent"], ["latent", "conditions"]) or names[1] != ["logits"]:
            raise InferenceError(
                f"{path} is no decoder: it takes {names[0]} and gives {names[1]}, not latent [, conditions] -> logits"
            )
        self.conditions = 0 if len(inputs) == 1 else _width(path, inputs[1].shape)
        for images in WARM_UP_IMAGES:
            conditions = np.zeros((images, self.conditions), np.float32) if self.conditions else None
            self.run(np.zeros((images, d), np.float32), conditions)

    def run(
        self, latent: NDArray[np.float32], conditions: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels (N,) and their softmax probabilities (N,) of ``latent`` (N, d); raises InferenceError.

        ``conditions`` (N, ``self.conditions``) are ``OperatingPoint.conditions``, None where it takes none.
        """
        inputs = {"latent": latent} if conditions is None else {"latent": latent, "conditions": conditions}
        try:
            (logits,) = self._session.run(["logits"], inputs)
        except Exception as error:
            raise InferenceError(f"{self._path} cannot be run: {_first_line(error)}") from error
        if logits.shape != (len(latent), self._classes):
            raise InferenceError(
                f"{self._path} gives logits {logits.shape} for {len(latent)} images, "
                f"but the manifest names {self._classes} classes"
            )
        return most_likely(logits)


class MakeDecoder(Protocol):
    """Makes the decoders of a bundle: ``Decoder``, or one whose work is done elsewhere."""

    def __call__(self, path: Path, d: int, classes: int, threads: int) -> Decoder:
        """As ``Decoder``."""


def most_likely(logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Label (N,) and softmax probability (N,) of each row of ``logits`` (N, C).

    A row that holds NaN or infinity, as a latent far outside the training set's can cause, has probability 0.
    """
    label = logits.argmax(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        top = np.take_along_axis(logits, label[:, None], axis=1)
        probability = 1.0 / np.exp(logits - top).sum(axis=1)
    return label, np.where(np.isfinite(logits).all(axis=1), probability, 0.0).astype(np.float32)


def _width(path: Path, shape: list[int | str]) -> int:
    width = shape[-1]
    if len(shape) != 2 or not isinstance(width, int) or width < PLAIN_CONDITIONS:
        raise InferenceError(f"{path} takes conditions of shape {shape}, not (N, {PLAIN_CONDITIONS} or more)")
    return width


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

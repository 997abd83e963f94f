"""The encoder in ONNX Runtime: images -> latents."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from latentwire.bundle import InputSpec
from latentwire.errors import InferenceError


@dataclass(frozen=True, slots=True)
class Latents:
    """What an encoder gives.

    ``latent`` (N, d) float32 and, if it has a head, ``head_logits`` (N, A) float32.
    """

    latent: NDArray[np.float32]
    head_logits: NDArray[np.float32] | None


class Encoder(Protocol):
    """Turns images into latents; one thread at a time."""

    def encode(self, images: NDArray[np.uint8]) -> Latents:
        """Latents of ``images`` (N, H, W, C) uint8; InferenceError if the graph fails."""
        ...


class EncodeMeter:
    """Counts what encoders take in, and the time they take. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images = 0
        self._seconds = 0.0

    def encode(self, encoder: Encoder, images: NDArray[np.uint8]) -> Latents:
        """``encoder.encode(images)``, counted."""
        started_s = time.perf_counter()
        latents = encoder.encode(images)
        with self._lock:
            self._images += len(images)
            self._seconds += time.perf_counter() - started_s
        return latents

    def read(self) -> tuple[int, float]:
        """Images so far, and seconds of the wall's clock."""
        with self._lock:
            return self._images, self._seconds


class OnnxEncoder:
    """A bundle's encoder.

    InferenceError if the file is no encoder for images of ``spec`` and latents of width d.
    """

    def __init__(self, path: Path, spec: InputSpec, d: int, *, threads: int, batch_images: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # a spinning thread keeps a small sensor's core at 100 % between images
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own many kinds, without a common base
            raise InferenceError(f"{path} cannot be loaded ({_line(error)}); export the bundle again") from error
        self._path = path
        self._d = d
        self._batch_images = batch_images
        self._outputs = [output.name for output in self._session.get_outputs()]
        shape = (None, spec.height, spec.width, spec.channels)
        inputs = self._session.get_inputs()
        fits = len(inputs) == 1 and inputs[0].name == "image" and inputs[0].type == "tensor(uint8)"
        if not fits or not _matches(inputs[0].shape, shape) or "latent" not in self._outputs:
            raise InferenceError(f"{path} is no encoder of {spec.height} x {spec.width} images; export it again")

    def encode(self, images: NDArray[np.uint8]) -> Latents:
        """Latents of ``images`` (N, H, W, C) uint8, at most ``batch_images`` in one run."""
        parts = [images[i : i + self._batch_images] for i in range(0, len(images), self._batch_images)]
        outputs = [self._run(part) for part in parts]
        latent = np.concatenate([output["latent"] for output in outputs])
        if latent.shape != (len(images), self._d):
            raise InferenceError(f"{self._path} gives latents of shape {latent.shape}, not (N, {self._d})")
        if "head_logits" not in self._outputs:
            return Latents(latent, None)
        return Latents(latent, np.concatenate([output["head_logits"] for output in outputs]))

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        try:
            values = self._session.run(self._outputs, {"image": images})
        except Exception as error:  # as above
            raise InferenceError(f"the encoder {self._path} failed: {_line(error)}") from error
        return {name: np.asarray(value, np.float32) for name, value in zip(self._outputs, values, strict=True)}


def _matches(shape: list[int | str | None], wanted: tuple[int | None, ...]) -> bool:
    """A graph's input shape, where a name or None stands for any size, agrees with ``wanted``."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(w is None or not isinstance(s, int) or s == w for s, w in pairs)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

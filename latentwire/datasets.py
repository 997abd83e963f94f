"""Labelled images, and the test splits that sensor, server and benchmarks read: numpy only, no torch.

The held-out digits ship with the package. CIFAR is read from its published files, which are pickles: they pass
through an unpickler that can make numpy arrays and nothing else.
"""

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentwire.errors import DataError

NAMES = ("digits", "cifar10", "cifar100")
DIGITS_TEST = "digits-test.npz"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled set of images: ``images`` uint8 (N, H, W, C), ``labels`` int64 (N,) of 0 to K - 1, and the K
    ``classes``' names. ``name`` is what the user called it.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)


@dataclass(frozen=True, slots=True)
class _Cifar:
    """Where a CIFAR archive keeps what: files, and the keys of its dictionaries."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    classes_key: str


_CIFAR = {
    "cifar10": _Cifar(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "labels",
        "label_names",
    ),
    "cifar100": _Cifar("cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names"),
}


def load_test(name: str, root: str | Path | None = None) -> Dataset:
    """The test split of ``digits`` (shipped: no root needed), ``cifar10`` or ``cifar100``, in its published order.

    ``root`` is the folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``. DataError if it is missing,
    damaged, or the name is unknown.
    """
    if name == "digits":
        return _digits_test()
    return read_cifar(name, root, "test")


def load_train(name: str, root: str | Path | None = None) -> Dataset:
    """The training split of ``cifar10`` or ``cifar100``, whole; DataError as ``load_test``. Digits to train on are in
    ``training.data``, for they come with scikit-learn.
    """
    return read_cifar(name, root, "train")


def read_cifar(name: str, root: str | Path | None, split: str) -> Dataset:
    """Read ``split`` ("train" or "test") of a CIFAR set from its published Python files; DataError if it cannot."""
    spec = _CIFAR.get(name)
    if spec is None:
        raise DataError(f"unknown data set {name!r}: give one of {', '.join(NAMES)}")
    if root is None:
        raise DataError(f"{name} needs a data root: give --data-root DIR, or set LATENTWIRE_DATA")
    folder = Path(root) / spec.folder
    if not folder.is_dir():
        raise DataError(
            f"no {name} under {str(root)!r}: it must hold the folder {spec.folder} "
            f"(unpack the Python version from https://www.cs.toronto.edu/~kriz/cifar.html there)"
        )
    images, labels = [], []
    for file in spec.test if split == "test" else spec.train:
        part = _read_pickle(folder / file)
        images.append(_cifar_images(folder / file, part.get("data")))
        labels.append(_cifar_labels(folder / file, part.get(spec.labels_key), len(images[-1])))
    names = _read_pickle(folder / spec.meta).get(spec.classes_key)
    if not isinstance(names, list) or not names or max(map(np.max, labels)) >= len(names):
        raise DataError(f"{folder / spec.meta} does not name every class: unpack {name} again")
    return Dataset(name, np.concatenate(images), np.concatenate(labels), tuple(str(n) for n in names))


def _digits_test() -> Dataset:
    content = (resources.files("latentwire") / "data" / DIGITS_TEST).read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    return Dataset("digits", images, labels, tuple(str(digit) for digit in range(10)))


def _cifar_images(path: Path, data: object) -> NDArray[np.uint8]:
    """Rows of 3072 bytes, channel after channel, as images (N, 32, 32, 3)."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DataError(f"{path} holds no CIFAR images: unpack the archive again")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _cifar_labels(path: Path, labels: object, images: int) -> NDArray[np.int64]:
    whole = isinstance(labels, list) and len(labels) == images and all(isinstance(x, int) and x >= 0 for x in labels)
    if not whole:
        raise DataError(f"{path} does not label every image: unpack the archive again")
    return np.array(labels, np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes numpy arrays and plain Python values; refuses every other class or function a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return allowed


def _codecs_encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes as {encoding}")
    return text.encode("latin1")


_RECONSTRUCT: Callable[..., Any] = np.empty(0, np.uint8).__reduce__()[0]  # type: ignore[assignment]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs_encode,
}
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
    struct.error,
)


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): unpack the archive again") from None
    except _PICKLE_ERRORS as error:
        raise DataError(f"{path} is no CIFAR file ({error}): unpack the archive again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is no CIFAR file: unpack the archive again")
    return content

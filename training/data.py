"""Labelled images to train on, by name: CIFAR through torchvision, scikit-learn's digits, folders of class folders."""

import urllib.error
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentwire.datasets import Dataset, load_test
from latentwire.errors import DataError
from training.folders import load_folder

Split = Literal["train", "test"]
DIGITS_HELD_OUT = 0.2
SPLIT_SEED = 0
FOLDER = "folder:"


def load_split(name: str, root: str | Path | None, split: Split, size: tuple[int, int] | None = None) -> Dataset:
    """The ``split`` of a data set by ``name``: cifar10, cifar100, digits or folder:PATH.

    ``root`` is the folder that CIFAR lies in or is downloaded to; a relative folder:PATH is looked up under it too.
    ``size`` is the (height, width) in pixels that a folder's images are resized to, None for the commonest size
    among them. The same call gives the same images in the same order. DataError, saying what to do, if they cannot be
    read.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, not {split!r}")
    if name.startswith(FOLDER):
        return load_folder(_folder(name.removeprefix(FOLDER), root), split, size)
    if name == "digits":
        return digits_split("train") if split == "train" else load_test("digits")
    if name in ("cifar10", "cifar100"):
        return _cifar(name, root, split)
    raise DataError(f"unknown data set {name!r}: give cifar10, cifar100, digits or folder:PATH")


def digits_split(split: Split) -> Dataset:
    """scikit-learn's 1,797 digits, 8 x 8, as uint8 0..255: a fixed stratified fifth is held out.

    The held-out images also ship with the package (``latentwire.datasets.load_test``), without scikit-learn.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    kept, held = stratified_split(labels, DIGITS_HELD_OUT, SPLIT_SEED)
    picks = kept if split == "train" else held
    return Dataset("digits", images[picks], labels[picks], tuple(str(digit) for digit in range(10)))


def stratified_split(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the kept and of the held-out images, each rising: ``share`` (0..1) of every class is held out, by a
    draw of its own, rounded to whole images.
    """
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng((seed, int(label))).permutation(members)
        held.append(order[: round(share * len(members))])
    picks = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), picks), picks


def split_validation(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training images and a stratified validation ``share`` of them (0 for none), drawn by ``seed``."""
    kept, held = stratified_split(dataset.labels, share, seed)
    return _pick(dataset, kept), _pick(dataset, held)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each channel's mean and standard deviation (C,) over ``images`` (N, H, W, C), in pixel values 0..255."""
    # counted, not averaged as floats: 150 million pixels would take a gigabyte
    channels = [np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[3])]
    share = np.stack(channels) / (images.size / images.shape[3])
    values = np.arange(256)
    mean = share @ values
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0))
    return mean.astype(np.float32), np.maximum(std, 1.0).astype(np.float32)


def flips_by_default(name: str) -> bool:
    """Whether a mirrored image still shows its class: not for digits."""
    return name != "digits"


def _pick(dataset: Dataset, picks: NDArray[np.int64]) -> Dataset:
    return Dataset(dataset.name, dataset.images[picks], dataset.labels[picks], dataset.classes)


def _folder(path: str, root: str | Path | None) -> Path:
    if not path:
        raise DataError("folder: needs a path, as in folder:photos/by-class")
    given = Path(path).expanduser()
    beside = Path(root) / path if root is not None else given
    return given if given.is_absolute() or given.is_dir() or not beside.is_dir() else beside


def _cifar(name: str, root: str | Path | None, split: Split) -> Dataset:
    from torchvision.datasets import CIFAR10, CIFAR100

    if root is None:
        raise DataError(f"{name} needs a data root: give --data-root DIR, or set LATENTWIRE_DATA")
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        source = kind(str(root), train=split == "train", download=True)
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{name} is not whole under {str(root)!r} and cannot be downloaded there ({reason}): unpack the Python "
            f"version from https://www.cs.toronto.edu/~kriz/cifar.html into that folder, or give another --data-root"
        ) from None
    labels = np.array(source.targets, np.int64)
    return Dataset(name, np.ascontiguousarray(source.data), labels, tuple(source.classes))

"""latentwire.datasets: the shipped digits, and CIFAR's pickles read without unpickling code."""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentwire.datasets import load_test, load_train
from latentwire.errors import DataError


def write_cifar10(root: Path, images: int = 4, **changes: Any) -> Path:
    """A tiny CIFAR-10 archive; ``changes`` replace keys of its test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (images, 3072), np.uint8)
        batch = {"data": pixels, "labels": [n % 10 for n in range(images)]} | (changes if name == "test_batch" else {})
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}, protocol=2))
    return folder


def test_the_shipped_digits_are_the_held_out_ones() -> None:
    digits = load_test("digits")
    assert digits.images.shape == (359, 8, 8, 1)
    assert digits.images.dtype == np.uint8
    assert digits.images.max() == 255
    assert digits.classes == tuple("0123456789")
    assert np.bincount(digits.labels).min() >= 34


def test_cifar10_rows_become_images(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    with (folder / "test_batch").open("rb") as file:
        rows = pickle.load(file)["data"]
    test, train = load_test("cifar10", tmp_path), load_train("cifar10", tmp_path)
    assert test.images.shape == (4, 32, 32, 3)
    assert len(train) == 20
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert test.classes[3] == "class 3"
    # the file holds all red, then all green, then all blue, each row by row
    assert test.images[2, 5, 7].tolist() == [rows[2, channel * 1024 + 5 * 32 + 7] for channel in range(3)]


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [99, 3], "coarse_labels": [1, 2]}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(n) for n in range(100)]}))
    assert load_test("cifar100", tmp_path).labels.tolist() == [99, 3]


class _Runs:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    victim = tmp_path / "made by a pickle"
    (folder / "test_batch").write_bytes(pickle.dumps({"data": _Runs(victim)}))
    with pytest.raises(DataError, match=r"test_batch is no CIFAR file \(it names \w+\.mkdir\)"):
        load_test("cifar10", tmp_path)
    assert not victim.exists()


def test_every_global_of_a_real_batch_is_allowed(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    content = (folder / "test_batch").read_bytes()
    named = {argument for opcode, argument, _ in pickletools.genops(content) if opcode.name == "GLOBAL"}
    assert any("_reconstruct" in str(name) for name in named)  # or this test would hold nothing
    # the published files were written by numpy 1, which had another module path
    (folder / "test_batch").write_bytes(content.replace(b"numpy._core.", b"numpy.core."))
    assert len(load_test("cifar10", tmp_path)) == 4


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({"data": "x"})])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (write_cifar10(tmp_path) / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch.*unpack the archive again"):
        load_test("cifar10", tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path) / "test_batch"
    content = path.read_bytes()
    for length in (1, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="test_batch"):
            load_test("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "does not label every image"),
        ({"labels": [0, 1, 2, -3]}, "does not label every image"),
        ({"labels": [0, 1, 2, 10]}, "does not name every class"),
        ({"data": np.zeros((4, 3071), np.uint8)}, "holds no CIFAR images"),
        ({"data": np.zeros((4, 3072), np.float32)}, "holds no CIFAR images"),
    ],
)
def test_a_batch_with_wrong_contents(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_cifar10(tmp_path, **change)
    with pytest.raises(DataError, match=message):
        load_test("cifar10", tmp_path)


def test_missing_roots_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cifar10 under '.*empty': it must hold the folder cifar-10-batches-py"):
        load_test("cifar10", tmp_path / "empty")
    with pytest.raises(DataError, match="cifar100 needs a data root: give --data-root"):
        load_test("cifar100")
    with pytest.raises(DataError, match="unknown data set 'mnist': give one of digits, cifar10, cifar100"):
        load_test("mnist", tmp_path)
    (write_cifar10(tmp_path) / "batches.meta").unlink()
    with pytest.raises(DataError, match="batches.meta cannot be read"):
        load_test("cifar10", tmp_path)


def test_arrays_of_the_shipped_file_hold_no_pickle() -> None:
    from importlib import resources

    content = (resources.files("latentwire") / "data" / "digits-test.npz").read_bytes()
    assert len(content) < 20_000
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["images", "labels"]

"""training.data and training.folders: what is read, how it is split, and what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentwire.datasets import Dataset, load_test
from latentwire.errors import DataError
from training.data import channel_statistics, digits_split, load_split, split_validation, stratified_split
from training.make_digits_test import digits_test_file

FILE = Path(__file__).parents[2] / "latentwire" / "data" / "digits-test.npz"


def make_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (10, 12), mode: str = "RGB") -> Path:
    """Class folders of noise; ``size`` is (height, width)."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{number:03}.png")
    return root


def as_set(dataset: Dataset) -> set[bytes]:
    return {image.tobytes() for image in dataset.images}


def test_digits_are_split_without_overlap_and_the_file_is_that_split() -> None:
    train, test = digits_split("train"), digits_split("test")
    assert (len(train), len(test)) == (1438, 359)
    # two pairs of scikit-learn's digits are alike, pixel for pixel
    assert len(as_set(train) & as_set(test)) <= 2
    shipped = load_test("digits")
    assert np.array_equal(shipped.images, test.images)
    assert np.array_equal(shipped.labels, test.labels)
    assert FILE.read_bytes() == digits_test_file()


def test_a_stratified_split_holds_its_share_of_each_class() -> None:
    labels = np.repeat(np.arange(3), (40, 100, 20)).astype(np.int64)
    kept, held = stratified_split(labels, 0.05, seed=3)
    assert np.bincount(labels[held]).tolist() == [2, 5, 1]
    assert sorted([*kept, *held]) == list(range(160))
    assert np.array_equal(stratified_split(labels, 0.05, seed=3)[1], held)
    assert not np.array_equal(stratified_split(labels, 0.05, seed=4)[1], held)


def test_no_validation_share_leaves_all_to_training() -> None:
    whole = digits_split("train")
    train, validation = split_validation(whole, 0.0, seed=0)
    assert (len(train), len(validation)) == (len(whole), 0)


def test_channel_statistics_are_those_of_the_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3), np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.reshape(-1, 3).mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, images.reshape(-1, 3).std(0), rtol=1e-6)
    assert channel_statistics(np.zeros((1, 2, 2, 1), np.uint8))[1].tolist() == [1.0]  # never a division by zero


def test_a_folder_is_split_and_its_classes_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"dog": 10, "cat": 5})
    train, test = (load_split(f"folder:{tmp_path}", None, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [4, 8]
    assert np.bincount(test.labels).tolist() == [1, 2]
    assert train.images.shape == (12, 10, 12, 3)
    assert not as_set(train) & as_set(test)


def test_a_folder_with_its_own_splits(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 4, "b": 4})
    make_folder(tmp_path / "test", {"a": 2, "b": 1}, size=(20, 24))
    test = load_split(f"folder:{tmp_path.name}", tmp_path.parent, "test")
    assert test.labels.tolist() == [0, 0, 1]
    assert test.images.shape == (3, 10, 12, 3)  # the training images' size


def test_a_folder_takes_the_commonest_size_or_the_one_given(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 8, "b": 8}, size=(9, 7))
    Image.new("RGB", (300, 200)).save(tmp_path / "a" / "big.png")
    assert load_split(f"folder:{tmp_path}", None, "train").images.shape[1:] == (9, 7, 3)
    assert load_split(f"folder:{tmp_path}", None, "train", (64, 48)).images.shape[1:] == (64, 48, 3)


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    make_folder(tmp_path / "grey", {"a": 5, "b": 5}, mode="L")
    assert load_split(f"folder:{tmp_path / 'grey'}", None, "train").images.shape[3] == 1
    Image.new("RGB", (12, 10)).save(tmp_path / "grey" / "a" / "colour.png")
    assert load_split(f"folder:{tmp_path / 'grey'}", None, "train").images.shape[3] == 3


def test_odd_images_are_read(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4}, size=(6, 6))
    deep = np.full((6, 6), 128 << 8, np.uint16)
    odd = {
        "deep.png": Image.fromarray(deep),
        "alpha.png": Image.new("RGBA", (6, 6), (255, 255, 255, 0)),
        "cmyk.jpg": Image.new("CMYK", (6, 6), (0, 0, 0, 255)),
        "palette.gif": Image.new("P", (6, 6), 0),
    }
    for name, image in odd.items():
        image.save(tmp_path / "b" / name)
    seen = [load_split(f"folder:{tmp_path}", None, split) for split in ("train", "test")]
    means = sorted(round(float(image.mean())) for part in seen for image in part.images if image.std() < 1)
    assert means == [0, 0, 0, 128]  # clear over black, black ink, the palette's black; grey not clipped to white


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "it is no image"), (b"\x89PNG\r\n", "it is no image"), (None, "truncated")]
)
def test_a_broken_image_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5}, size=(40, 40))
    broken = tmp_path / "b" / "002.png"
    broken.write_bytes(broken.read_bytes()[:2000] if content is None else content)
    with pytest.raises(DataError, match=f"the image {broken} cannot be read .*{reason}.*: repair it or take it out"):
        for split in ("train", "test"):
            load_split(f"folder:{tmp_path}", None, split)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder '.*nowhere': give a folder that holds a folder of images"):
        load_split(f"folder:{tmp_path}/nowhere", None, "train")
    with pytest.raises(DataError, match="folder: needs a path"):
        load_split("folder:", None, "train")
    with pytest.raises(DataError, match="holds 0 class folders: it needs at least two"):
        load_split(f"folder:{tmp_path}", None, "train")
    make_folder(tmp_path, {"a": 5, "few": 3})
    with pytest.raises(DataError, match="the class folder .*few holds 3 images: it needs at least 4"):
        load_split(f"folder:{tmp_path}", None, "train")


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 4, "b": 4})
    make_folder(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(DataError, match="must hold the same classes; they differ in: b, c"):
        load_split(f"folder:{tmp_path}", None, "train")


def test_unknown_names_and_missing_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="unknown data set 'imagenet': give cifar10, cifar100, digits or folder:PATH"):
        load_split("imagenet", tmp_path, "train")
    with pytest.raises(DataError, match="cifar10 needs a data root"):
        load_split("cifar10", None, "train")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"cifar100 is not whole under '.*' .*no network here\): unpack the Python"):
        load_split("cifar100", tmp_path / "missing", "train")


def test_cifar_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [7, 99, 0]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"c{n}" for n in range(100)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # of the published files
    test = load_split("cifar100", tmp_path, "test")
    ours = load_test("cifar100", tmp_path)
    assert np.array_equal(test.images, ours.images)
    assert np.array_equal(test.labels, ours.labels)
    assert test.classes == ours.classes

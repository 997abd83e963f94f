"""A data set's test split as a source."""

import time
from collections.abc import Iterator
from pathlib import Path

from edge_sensor.sources.frames import Dropped, Frame
from edge_sensor.sources.picture import fit_array
from latentwire.bundle import InputSpec
from latentwire.datasets import load_test


class DatasetSource:
    """The test images of ``digits``, ``cifar10`` or ``cifar100``, in order.

    DataError if they are not there.
    """

    live = False

    def __init__(self, name: str, root: Path | None, spec: InputSpec, classes: tuple[str, ...]) -> None:
        self._data = load_test(name, root)
        self._spec = spec
        known = {label: index for index, label in enumerate(classes)}
        self._truth = [known.get(label) for label in self._data.classes]
        self.description = f"{name} test split, {len(self._data.images)} images"

    def __iter__(self) -> Iterator[Frame | Dropped]:
        """All test images once; truth is known where the bundle has a class of that name."""
        for index, (image, label) in enumerate(zip(self._data.images, self._data.labels, strict=True)):
            fitted = fit_array(image, self._spec)
            yield Frame(f"{self._data.name}/{index}", fitted, self._truth[int(label)], time.monotonic())

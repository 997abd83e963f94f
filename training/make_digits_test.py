"""Write the held-out digits that ship with the package: ``python -m training.make_digits_test``."""

import io
import zipfile
from pathlib import Path

import numpy as np

import latentwire
from latentwire.datasets import DIGITS_TEST
from training.data import digits_split


def digits_test_file() -> bytes:
    """The npz's bytes, the same at every call: images uint8 (N, 8, 8, 1) and labels uint8 (N,)."""
    held = digits_split("test")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in {"images": held.images, "labels": held.labels.astype(np.uint8)}.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            # a fixed date, where numpy.savez would write today's
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


if __name__ == "__main__":
    (Path(latentwire.__file__).parent / "data" / DIGITS_TEST).write_bytes(digits_test_file())

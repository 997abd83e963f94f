"""What several of the sensor's tests stand on."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and images for a sensor."""
    from sensor_server import make_world  # needs more than a sensor's install, where the codec's tests run too

    folder = tmp_path_factory.mktemp("sensor")
    make_world(folder)
    return folder

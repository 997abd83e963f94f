"""The decoder pool on a real local Ray; needs the ray extra."""

from pathlib import Path

import numpy as np
import pytest

from latentwire.bundle import load_bundle
from latentwire.errors import InferenceError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # what Ray warns of is Ray's


@pytest.fixture(autouse=True)
def ray_is_here() -> None:
    pytest.importorskip("ray.serve", reason="the ray extra is not installed: make e2e has an environment with it")


def test_replicas_are_killed_and_every_image_is_answered_once() -> None:
    from benchmarks.ray_kills import kill_replicas

    came_of_it = kill_replicas(seconds=16, every_s=5, replicas=2)
    assert came_of_it["kills"] == 3
    assert (came_of_it["lost"], came_of_it["doubled"], came_of_it["unlike"]) == (0, 0, 0)
    assert int(str(came_of_it["images"])) > 100


def test_the_pool_answers_as_a_decoder_does_and_says_what_it_cannot(tmp_path: Path) -> None:
    import ray

    from edge_server.decoder import Decoder
    from edge_server.ray_decoder import RayDecoder

    bundle = load_bundle("digits")
    manifest = bundle.manifest
    path, d = bundle.decoder_path(manifest.default_variant), manifest.variants[manifest.default_variant].d
    latent = np.random.default_rng(0).normal(size=(300, d)).astype(np.float32)
    try:
        pooled = RayDecoder(path, d, len(manifest.classes), 1)
        for mine, theirs in zip(
            pooled.run(latent), Decoder(path, d, len(manifest.classes), 1).run(latent), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        with pytest.raises(InferenceError, match="replica"):
            pooled.run(latent[:, 1:])
        (tmp_path / "none.onnx").write_bytes(b"none")
        with pytest.raises(InferenceError, match="cannot be loaded"):
            RayDecoder(tmp_path / "none.onnx", d, len(manifest.classes), 1)
    finally:
        ray.shutdown()

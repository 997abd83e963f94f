"""The bundles a server holds: found by name and digest, loaded when needed, let go when too many."""

import shutil
from pathlib import Path

import bundles_on_air
import factories
import pytest

from edge_server import bundle_library
from edge_server.bundle_library import BundleLibrary
from edge_server.pipeline import Pipeline
from latentwire.bundle import Bundle
from latentwire.errors import BundleError, BundleMismatchError, BundleNotFoundError
from latentwire.messages import Hello, OperatingPointName
from latentwire.operating_point import OperatingPoint


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def own(tmp_path: Path) -> Bundle:
    (tmp_path / "library").mkdir()
    return factories.make_bundle(tmp_path / "own")


def library_of(tmp_path: Path, own: Bundle, clock: Clock | None = None) -> BundleLibrary:
    return BundleLibrary(Pipeline(own, 1), tmp_path / "library", 1, clock or Clock())


def named(bundle: Bundle, number: int = 1, digest: str | None = None) -> OperatingPointName:
    """An operating point of a bundle, announced as of it."""
    point = OperatingPoint.derive(bundle.codec_parameters("full", "gaussian"), "full", "gaussian", 2.0)
    of = bundle.sensor_digest if digest is None else digest
    return OperatingPointName(number, "full", "gaussian", 2.0, point.digest, sensor_digest=of)


def hello(bundle: Bundle, *points: OperatingPointName) -> Hello:
    return Hello(
        "cam", "s1", bundle.manifest.model_id, bundle.digest, points or (named(bundle, digest=""),),
        sensor_digest=bundle.sensor_digest,
    )  # fmt: skip


def test_a_hello_may_name_points_of_several_bundles(tmp_path: Path, own: Bundle) -> None:
    other = bundles_on_air.make_turned(tmp_path / "library" / "other", 1)
    library = library_of(tmp_path, own)
    served = library.verify(hello(other, named(own, 1), named(other, 2, digest="")))
    assert [point.bundle.digest for point in served] == [own.digest, other.digest]


def test_a_bundle_nobody_has_is_refused_by_name(tmp_path: Path, own: Bundle) -> None:
    stranger = bundles_on_air.make_turned(tmp_path / "elsewhere", 1)
    library = library_of(tmp_path, own)
    with pytest.raises(BundleMismatchError, match=r"the sensor runs bundle 'turned-1' .*, the server 'quadrants'"):
        library.verify(hello(stranger))
    with pytest.raises(BundleMismatchError, match="an operating point is of a bundle"):
        library.verify(hello(own, named(stranger)))


def test_a_bundle_may_be_put_there_while_the_server_runs(tmp_path: Path, own: Bundle) -> None:
    clock = Clock()
    library = library_of(tmp_path, own, clock)
    assert [held.manifest.model_id for held in library.all()] == ["quadrants"]
    made = bundles_on_air.make_turned(tmp_path / "library" / "new", 1)
    with pytest.raises(BundleNotFoundError):
        library.named("turned-1")  # it has just looked
    clock.now_s = 2.0
    assert library.named("turned-1").digest == made.digest
    assert library.named(made.digest[:6]).digest == made.digest
    with pytest.raises(BundleNotFoundError):
        library.named(made.digest[:5])


def test_a_bundle_that_is_served_outlives_its_folder(tmp_path: Path, own: Bundle) -> None:
    clock = Clock()
    made = bundles_on_air.make_turned(tmp_path / "library" / "new", 1)
    library = library_of(tmp_path, own, clock)
    library.verify(hello(made))
    shutil.rmtree(made.path)
    clock.now_s = 2.0
    assert [held.manifest.model_id for held in library.all()] == ["quadrants"]
    assert library.derive(made, "full", "gaussian", 4.0).bundle.digest == made.digest


def test_a_bundle_replaced_since_it_was_found_is_not_taken_for_it(tmp_path: Path, own: Bundle) -> None:
    made = bundles_on_air.make_turned(tmp_path / "library" / "new", 1)
    library = library_of(tmp_path, own)
    library.all()
    bundles_on_air.make_turned(tmp_path / "library" / "new", 2)
    with pytest.raises(BundleError, match="has just been replaced; try again"):
        library.pipeline(made.digest)


def test_pipelines_least_lately_used_are_let_go(tmp_path: Path, own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_library, "KEPT_PIPELINES", 2)
    made = [bundles_on_air.make_turned(tmp_path / "library" / str(turns), turns) for turns in (1, 2, 3)]
    library = library_of(tmp_path, own)
    first = [library.pipeline(bundle.digest) for bundle in made]
    assert library.pipeline(made[2].digest) is first[2]
    assert library.pipeline(made[0].digest) is not first[0]
    assert library.pipeline(own.digest) is library.own


def test_a_library_folder_must_be_there(tmp_path: Path, own: Bundle) -> None:
    with pytest.raises(BundleNotFoundError, match="there is no library folder"):
        BundleLibrary(Pipeline(own, 1), tmp_path / "none", 1)

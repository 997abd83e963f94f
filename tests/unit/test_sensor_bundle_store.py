"""What a sensor keeps of bundles that came over the air."""

import errno
import hashlib
from pathlib import Path

import bundles_on_air
import factories
import pytest

from edge_sensor import bundle_store
from edge_sensor.bundle_fetch import MAX_PIECE_BYTES, MIN_PIECE_BYTES, next_piece_bytes
from edge_sensor.bundle_store import BundleStore, Choice
from edge_sensor.rate_control_ladder import ladder
from latentwire.bundle import MANIFEST, Bundle, FileEntry
from latentwire.errors import BundleCorruptError, BundleError, BundleVersionError


@pytest.fixture
def configured(tmp_path: Path) -> Bundle:
    return factories.make_bundle(tmp_path / "configured")


def open_store(tmp_path: Path, configured: Bundle, variant: str | None = None) -> BundleStore:
    return BundleStore(tmp_path / "store", configured, variant, None)


def take(store: BundleStore, bundle: Bundle, variant: str = "full") -> list[str]:
    """Have the store take a bundle in as if it were fetched; the names of the files that were."""
    manifest = store.add_manifest(bundle.digest, (bundle.path / MANIFEST).read_bytes(), b"")
    lacking = store.lacking(bundle.digest, manifest, variant)
    for entry in lacking:
        content = (bundle.path / entry.path).read_bytes()
        store.append(entry, content[store.offset(entry) :])
        store.finish(bundle.digest, entry)
    return [entry.path for entry in lacking]


def kept(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "store" / "bundles").iterdir()}


def test_what_proved_itself_is_started_with_and_then_the_one_before(tmp_path: Path, configured: Bundle) -> None:
    first, second = (bundles_on_air.make_turned(tmp_path / str(turns), turns) for turns in (1, 2))
    store = open_store(tmp_path, configured)
    assert store.choices() == ()
    for bundle in (first, second):
        assert take(store, bundle) == ["encoder.onnx"]  # the entropy models are the configured bundle's
        store.chose(bundle.digest, "full")
    store.close()
    store = open_store(tmp_path, configured)
    assert store.choices() == (Choice(second.digest, "full"), Choice(first.digest, "full"))
    assert store.open(second.digest, "full").manifest == second.manifest
    assert kept(tmp_path) == {first.digest, second.digest}
    store.close()


def test_another_variant_of_the_same_bundle_takes_no_place_from_the_one_before(
    tmp_path: Path, configured: Bundle
) -> None:
    made = bundles_on_air.make_with_a_variant(tmp_path / "new", 1)
    store = open_store(tmp_path, configured)
    take(store, made)
    store.chose(made.digest, "full")
    fetched = store.open(made.digest, "full")
    assert fetched.variants == ("full",)
    assert {rung.variant for rung in ladder(fetched, "full", "gaussian")} == {"full"}  # rate control uses what is here
    with pytest.raises(BundleCorruptError, match=r"turned-encoder\.onnx cannot be read"):
        store.open(made.digest, "turned")
    assert take(store, made, "turned") == ["turned-encoder.onnx"]
    assert store.open(made.digest, "turned").variants == ("turned", "full")
    store.chose(made.digest, "turned")
    assert store.choices() == (Choice(made.digest, "turned"), Choice(configured.digest, None))
    store.close()


@pytest.mark.parametrize("variant", ["full", None])
def test_settings_that_name_something_else_count_more(tmp_path: Path, configured: Bundle, variant: str | None) -> None:
    store = open_store(tmp_path, configured, "full")
    made = bundles_on_air.make_turned(tmp_path / "new", 1)
    take(store, made)
    store.chose(made.digest, "full")
    store.close()
    now = configured if variant is None else factories.make_bundle(tmp_path / "other", model_id="other")
    store = open_store(tmp_path, now, variant)
    assert store.choices() == ()
    store.close()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"configured": 1}'])
def test_a_damaged_state_is_set_aside(tmp_path: Path, configured: Bundle, content: bytes) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "state.json").write_bytes(content)
    store = open_store(tmp_path, configured)
    assert store.choices() == ()
    store.close()


def test_a_state_names_no_paths(tmp_path: Path, configured: Bundle) -> None:
    (tmp_path / "store").mkdir()
    state = f'{{"configured": {{"digest": "{configured.digest}", "variant": null}}, '
    state += '"chosen": [{"digest": "../../etc", "variant": null}]}'
    (tmp_path / "store" / "state.json").write_text(state)
    store = open_store(tmp_path, configured)
    assert store.choices() == ()
    store.close()


def test_a_store_is_one_sensors(tmp_path: Path, configured: Bundle) -> None:
    store = open_store(tmp_path, configured)
    with pytest.raises(BundleError, match="is another sensor's; give each its own"):
        open_store(tmp_path, configured)
    store.close()
    open_store(tmp_path, configured).close()


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path, configured: Bundle) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(BundleError, match="the bundle store .* cannot be used"):
        open_store(tmp_path, configured)


def test_a_disk_that_is_full_is_told(tmp_path: Path, configured: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, configured)
    made = bundles_on_air.make_turned(tmp_path / "new", 1)
    take(store, made)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_store, "_sync", full)
    with pytest.raises(BundleError, match="cannot be used \\(No space left on device\\)"):
        store.chose(made.digest, "full")
    assert store.choices() == ()
    store.close()


def test_a_file_goes_on_where_it_ended_and_never_grows_past_its_size(tmp_path: Path, configured: Bundle) -> None:
    content = b"0123456789"
    entry = FileEntry("encoder.onnx", hashlib.sha256(content).hexdigest(), len(content))
    store = open_store(tmp_path, configured)
    assert store.append(entry, content[:4]) == 4
    store.close()
    store = open_store(tmp_path, configured)
    assert store.offset(entry) == 4
    with pytest.raises(BundleCorruptError, match=r"more of encoder\.onnx than its manifest says"):
        store.append(entry, content)
    store.append(entry, content[4:])
    assert store.offset(entry) == 10
    (tmp_path / "store" / "partial" / entry.sha256).write_bytes(content * 2)
    assert store.offset(entry) == 0  # what is longer than it may be is begun anew
    store.close()


def test_a_manifest_that_asks_for_too_much_is_refused(tmp_path: Path, configured: Bundle) -> None:
    text = (configured.path / MANIFEST).read_text()
    size = configured.manifest.variant().encoder.bytes
    store = open_store(tmp_path, configured)
    for changed, error in [
        (text.replace(f'"bytes": {size}', f'"bytes": {1 << 40}'), BundleCorruptError),
        (text.replace(f'"bytes": {size}', '"bytes": -5'), BundleCorruptError),
        (text.replace('"path": "encoder.onnx"', '"path": "../encoder.onnx"'), BundleCorruptError),
        (text.replace('"path": "encoder.onnx"', '"path": "manifest.sig"'), BundleCorruptError),
        (text.replace('"format_version": ', '"format_version": 9'), BundleVersionError),
    ]:
        assert changed != text
        with pytest.raises(error):
            store.add_manifest(hashlib.sha256(changed.encode()).hexdigest(), changed.encode(), b"")
    assert kept(tmp_path) == set()
    store.close()


def test_what_is_not_wanted_any_more_is_removed(tmp_path: Path, configured: Bundle) -> None:
    wanted, other = (FileEntry("a", letter * 64, 10) for letter in "ab")
    store = open_store(tmp_path, configured)
    for entry in (wanted, other):
        store.append(entry, b"01")
    store.prune("", [wanted])
    assert (store.offset(wanted), store.offset(other)) == (2, 0)
    store.close()


def test_pieces_grow_to_half_a_second_of_the_link() -> None:
    size, sizes = 4096, []
    for _ in range(40):  # 8,000 bytes a second
        size = next_piece_bytes(size, size / 8000)
        sizes.append(size)
    assert sizes[-1] == pytest.approx(4000, rel=0.01)
    assert next_piece_bytes(4096, 1e-6) == 8192
    assert next_piece_bytes(MAX_PIECE_BYTES, 0.1) == MAX_PIECE_BYTES
    assert next_piece_bytes(4096, 60.0) == MIN_PIECE_BYTES

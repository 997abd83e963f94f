"""A running pair is moved to other variants and bundles, and followed to the decoded results."""

import asyncio
from pathlib import Path
from typing import Any

import bundles_on_air
import factories
import pytest
from moving_rig import moving
from sensor_rig import CuttableLink

from edge_server import bundles_service
from latentwire import errors

VARIANTS = ("full", "small")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    factories.make_bundle(tmp_path / "bundle", variants=VARIANTS)
    return tmp_path


def changes(turns: list[int]) -> list[int]:
    """The runs of one value: [0, 0, 1, 1, 1] gives [0, 1]."""
    return [turn for turn, before in zip(turns, [None, *turns], strict=False) if turn != before]


def stored(world: Path, digest: str) -> list[str]:
    return sorted(path.name for path in (world / "store" / "bundles" / digest).iterdir())


class Downloads:
    """Reads of bundles' files for sensors, which a test may look at, slow down and spoil."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[str, int, int]] = []  # name, offset, bytes
        self.before: Any = None
        self.spoil = False
        plain = bundles_service._read

        def read(path: Path, offset: int, size: int) -> bytes:
            data = plain(path, offset, size)
            self.reads.append((path.name, offset, len(data)))
            if self.before is not None:
                self.before()
            return data[:-1] + bytes([data[-1] ^ 1]) if self.spoil and data else data

        monkeypatch.setattr(bundles_service, "_read", read)


async def test_a_pushed_bundle_is_fetched_and_answers_from_a_message_on(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = Downloads(monkeypatch)
    async with moving(world, monkeypatch) as pair:
        made = bundles_on_air.make_turned(world / "library" / "new", 1, variants=VARIANTS)
        before, after = await pair.push("turned-1")
        assert (before.variant, after.variant, after.rate_scale) == ("full", "full", before.rate_scale)
        assert after.images > 0
        info = await pair.info()
        assert (info.model_id, info.bundle_digest) == ("turned-1", made.digest)
        await pair.answered(16)
        assert changes(await pair.end()) == [0, 1]
    assert stored(world, made.digest) == ["anchored.npz", "encoder.onnx", "gaussian.npz", "manifest.json"]
    assert not list((world / "store" / "partial").iterdir())
    assert {name for name, _, _ in downloads.reads} == {"encoder.onnx"}  # the entropy models it had


async def test_a_variant_is_set_on_a_running_pair(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with moving(world, monkeypatch, bundle_store=None) as pair:
        before, after = await pair.set_variant("small")
        assert (before.variant, after.variant) == ("full", "small")
        await pair.end()


async def test_a_variant_that_was_added_to_a_bundle_reaches_the_sensor(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``latentwire truncate --bundle`` adds one: the same model id, another digest."""
    async with moving(world, monkeypatch) as pair:
        made = bundles_on_air.make_with_a_variant(world / "library" / "new", 1)
        with pytest.raises(errors.BundleError, match=r"'quadrants' may be quadrants \(\w{12}\), quadrants"):
            await pair.push("quadrants")
        await pair.push(made.digest)
        assert "turned-encoder.onnx" not in stored(world, made.digest)  # a thin link carries what is used
        await pair.answered(16)
        await pair.call(lambda client: client.set_rate("mast", factories.RATE_MAX))
        before, after = await pair.set_variant("turned")
        assert (before.rate_scale, after.rate_scale) == (factories.RATE_MAX, factories.RATE_DEFAULT)  # it ends at 4
        assert after.variant == "turned"
        await pair.answered(16)
        assert changes(await pair.end()) == [0, 1]
    assert "turned-encoder.onnx" in stored(world, made.digest)


async def test_bundle_and_variant_come_in_one_push_and_stay_over_a_restart(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundles_on_air.make_with_a_variant(world / "library" / "new", 1)
    async with moving(world, monkeypatch) as pair:
        await pair.push(made.digest[:8], "turned")
        await pair.answered(16)
        assert changes(await pair.end()) == [0, 1]
    async with moving(world, monkeypatch) as pair:
        info = await pair.info()
        assert (info.bundle_digest, info.rate.variant) == (made.digest, "turned")
        assert set(await pair.end()) == {1}


async def test_a_damaged_store_gives_way_to_the_bundle_before(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundles_on_air.make_turned(world / "library" / "1", 1)
    second = bundles_on_air.make_turned(world / "library" / "2", 2)
    async with moving(world, monkeypatch) as pair:
        await pair.push("turned-1")
        await pair.push("turned-2")
        await pair.end()
    (world / "store" / "bundles" / second.digest / "encoder.onnx").write_bytes(b"not what it was")
    async with moving(world, monkeypatch) as pair:
        assert (await pair.info()).bundle_digest == first.digest
        assert set(await pair.end()) == {1}


async def test_the_last_two_bundles_are_kept(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [bundles_on_air.make_turned(world / "library" / str(turns), turns) for turns in (1, 2, 3)]
    async with moving(world, monkeypatch) as pair:
        for bundle in made:
            await pair.push(bundle.digest)
            await pair.answered(8)
        while len(list((world / "store" / "bundles").iterdir())) > 2:
            await asyncio.sleep(0.02)
        kept = {path.name for path in (world / "store" / "bundles").iterdir()}
        assert kept == {bundle.digest for bundle in made[1:]}
        await pair.push(factories.make_bundle(world / "again", variants=VARIANTS).digest)  # and back to its own
        await pair.answered(8)
        assert changes(await pair.end()) == [0, 1, 2, 3, 0]


async def test_a_fetch_goes_on_where_a_cut_link_left_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = Downloads(monkeypatch)
    made = bundles_on_air.make_large(world / "library" / "new", 300_000)
    size = made.manifest.variant().encoder.bytes
    loop = asyncio.get_running_loop()
    async with CuttableLink(0) as link, moving(world, monkeypatch, leads=link) as pair:

        def cut() -> None:
            if len(downloads.reads) in (2, 4, 5):
                loop.call_soon_threadsafe(link.cut)

        downloads.before = cut
        _, after = await pair.push("large")
        assert after.images > 0
        await pair.answered(16)
        assert changes(await pair.end()) == [0, 1]
    assert link.cuts >= 3
    offsets = [offset for _, offset, _ in downloads.reads]
    assert offsets == sorted(offsets)  # never back to the start
    assert sum(read for _, _, read in downloads.reads) < size + 4 * 65536


async def test_a_fetch_goes_on_after_a_restart(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = Downloads(monkeypatch)
    bundles_on_air.make_large(world / "library" / "new", 300_000)
    fetched = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell() -> None:
        if len(downloads.reads) == 3:
            loop.call_soon_threadsafe(fetched.set)

    downloads.before = tell
    async with moving(world, monkeypatch) as pair:
        pushing = asyncio.create_task(pair.push("large"))
        await fetched.wait()
        await pair.end()
        with pytest.raises(errors.CommandRefusedError, match="the sensor has coded its last image"):
            await pushing
    at = len(downloads.reads)
    async with moving(world, monkeypatch) as pair:
        await pair.push("large")
        await pair.answered(16)
        assert changes(await pair.end()) == [0, 1]
    assert downloads.reads[at][1] > 0


async def test_the_rate_can_be_turned_while_a_bundle_is_fetched_and_keeps(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = Downloads(monkeypatch)
    bundles_on_air.make_large(world / "library" / "new", 300_000)
    begun, turned = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(turned.wait(), loop).result(30)

    downloads.before = hold
    async with moving(world, monkeypatch) as pair:
        pushing = asyncio.create_task(pair.push("large"))
        await begun.wait()
        _, after = await pair.call(lambda client: client.set_rate("mast", factories.RATE_MAX))
        assert (after.rate_scale, pushing.done()) == (factories.RATE_MAX, False)
        turned.set()
        _, after = await pushing
        assert after.rate_scale == factories.RATE_MAX
        await pair.end()


async def test_a_later_push_takes_the_place_of_one_that_is_being_fetched(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = Downloads(monkeypatch)
    bundles_on_air.make_large(world / "library" / "new", 300_000)
    bundles_on_air.make_turned(world / "library" / "other", 2)
    begun, refused = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(refused.wait(), loop).result(30)

    downloads.before = hold
    async with moving(world, monkeypatch) as pair:
        earlier = asyncio.create_task(pair.push("large"))
        await begun.wait()
        later = asyncio.create_task(pair.push("turned-2"))
        with pytest.raises(errors.CommandRefusedError, match="a later command took its place"):
            await earlier
        refused.set()
        await later
        await pair.answered(16)
        assert changes(await pair.end()) == [0, 2]

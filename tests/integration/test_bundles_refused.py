"""Bundles that must not be run: refused by name, the one before goes on, and no image is lost."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import bundles_on_air
import factories
import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moving_rig import Pair, moving
from raw_sensor import RawSensor, serving

from edge_sensor import bundle_fetch
from edge_server import bundles_service
from latentwire import errors
from latentwire import messages as m
from latentwire.bundle import MANIFEST, SIGNATURE
from latentwire.control_client import ControlClient
from latentwire.operating_point import OperatingPoint
from latentwire.signature import sign_bundle
from latentwire.v1 import bundles_pb2 as pb
from latentwire.v1.bundles_pb2_grpc import BundlesStub


@pytest.fixture
def world(tmp_path: Path) -> Path:
    factories.make_bundle(tmp_path / "bundle")
    (tmp_path / "library").mkdir()
    return tmp_path


async def refused(pair: Pair, bundle: str, error: type[Exception], match: str) -> None:
    """The push fails so, and the sensor goes on as before."""
    before = await pair.info()
    with pytest.raises(error, match=match):
        await pair.push(bundle)
    await pair.answered(16)
    after = await pair.info()
    assert (after.bundle_digest, after.rate.variant) == (before.bundle_digest, before.rate.variant)
    assert set(await pair.end()) == {0}
    assert not list((pair.world / "store" / "bundles").iterdir())
    assert not list((pair.world / "store" / "partial").iterdir())


async def test_a_file_with_a_wrong_hash(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bundles_service._read
    monkeypatch.setattr(bundles_service, "_read", lambda *asked: bytes(255 - byte for byte in plain(*asked)))
    bundles_on_air.make_turned(world / "library" / "new", 1)
    async with moving(world, monkeypatch) as pair:
        await refused(pair, "turned-1", errors.CommandRefusedError, "encoder.onnx is not the file that the manifest")


async def test_a_manifest_with_a_wrong_hash(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles_on_air.make_turned(world / "library" / "new", 1)
    plain = bundles_service.BundlesService._manifest

    def other(self: bundles_service.BundlesService, request: pb.GetManifestRequest) -> pb.GetManifestResponse:
        answer = plain(self, request)
        return pb.GetManifestResponse(manifest_json=answer.manifest_json + b"\n")

    monkeypatch.setattr(bundles_service.BundlesService, "_manifest", other)
    async with moving(world, monkeypatch) as pair:
        await refused(pair, "turned-1", errors.CommandRefusedError, "BundleCorruptError: the manifest handed out as")


async def test_a_file_that_ends_too_soon(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles_service, "_read", lambda *_: b"")
    bundles_on_air.make_turned(world / "library" / "new", 1)
    async with moving(world, monkeypatch) as pair:
        await refused(pair, "turned-1", errors.CommandRefusedError, "ends before the")


def make_key(path: Path) -> Ed25519PrivateKey:
    """A private key; ``path`` gets its public half."""
    private = Ed25519PrivateKey.generate()
    path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private


async def test_a_bundle_that_is_signed_by_the_trusted_key_is_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundles_on_air.make_turned(world / "library" / "new", 1)
    sign_bundle(made.path, make_key(world / "key.pem"))
    for _ in range(2):  # the signature is asked for at the start too
        async with moving(world, monkeypatch, bundle_key=world / "key.pem") as pair:
            if (await pair.info()).model_id != "turned-1":
                await pair.push("turned-1")
                await pair.answered(16)
            turns = await pair.end()
    assert set(turns) == {1}
    assert (world / "store" / "bundles" / made.digest / SIGNATURE).stat().st_size == 64


async def test_a_bundle_that_is_not_signed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(world / "key.pem")
    bundles_on_air.make_turned(world / "library" / "new", 1)
    async with moving(world, monkeypatch, bundle_key=world / "key.pem") as pair:
        await refused(pair, "turned-1", errors.CommandRefusedError, "SignatureError: bundle 'turned-1' is not signed:")


async def test_a_bundle_that_is_signed_by_another_key(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(world / "key.pem")
    sign_bundle(bundles_on_air.make_turned(world / "library" / "new", 1).path, Ed25519PrivateKey.generate())
    async with moving(world, monkeypatch, bundle_key=world / "key.pem") as pair:
        await refused(pair, "turned-1", errors.CommandRefusedError, "SignatureError: .* not signed by the key")


async def test_an_encoder_of_another_shape_than_the_sensors_images(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles_on_air.make_of_another_shape(world / "library" / "new", told=True)
    async with moving(world, monkeypatch) as pair:
        match = "BundleMismatchError: bundle 'another-shape' takes 9 x 8 L images, this sensor makes 8 x 8 L"
        await refused(pair, "another-shape", errors.CommandRefusedError, match)


async def test_an_encoder_of_another_shape_than_its_manifest_says(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles_on_air.make_of_another_shape(world / "library" / "new", told=False)
    async with moving(world, monkeypatch) as pair:
        match = "InferenceError: .*encoder.onnx is no encoder of 8 x 8 images"
        await refused(pair, "another-shape", errors.CommandRefusedError, match)


async def test_a_bundle_of_other_classes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles_on_air.make_with_other_classes(world / "library" / "new")
    async with moving(world, monkeypatch) as pair:
        await refused(pair, "other-classes", errors.CommandRefusedError, "BundleMismatchError: .* has other classes")


async def test_an_encoder_that_gives_no_numbers_when_it_is_warmed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles_on_air.make_nan(world / "library" / "new", below=1000.0)
    async with moving(world, monkeypatch) as pair:
        await refused(
            pair, "nan", errors.CommandRefusedError, "InferenceError: the encoder of 'nan'/full gives latents"
        )


async def test_an_encoder_that_fails_on_the_first_real_images_is_taken_back(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles_on_air.make_nan(world / "library" / "new", below=110.0)
    async with moving(world, monkeypatch) as pair:
        match = "InferenceError: the encoder gives latents that are no numbers for"
        await refused(pair, "nan", errors.CommandRefusedError, match)


async def test_a_server_whose_tables_differ_is_asked_before_the_switch(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = bundle_fetch.BundleClient.check

    async def other(self: bundle_fetch.BundleClient, digest: str, point: OperatingPoint) -> None:
        changed = OperatingPoint(point.variant, point.model, point.rate_scale, point.codec, bytes(8), 1.0)
        await plain(self, digest, changed)

    monkeypatch.setattr(bundle_fetch.BundleClient, "check", other)
    bundles_on_air.make_turned(world / "library" / "new", 1)
    async with moving(world, monkeypatch) as pair:
        await refused(pair, "turned-1", errors.CommandRefusedError, "TableDigestError: tables of full/gaussian")


async def test_what_the_server_lacks_or_cannot_run_never_reaches_the_sensor(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = bundles_on_air.make_turned(world / "library" / "broken", 1)
    (broken.path / "decoder.onnx").write_bytes(b"no decoder")
    (world / "library" / "note.txt").write_text("not a bundle")
    factories.make_bundle(world / "library" / "renamed", model_id="renamed")  # no other encoder, no other tables
    (world / "library" / "half").mkdir()
    (world / "library" / "half" / MANIFEST).write_text("{")
    async with moving(world, monkeypatch) as pair:
        with pytest.raises(errors.BundleNotFoundError, match="the server holds no bundle 'none', but quadrants"):
            await pair.push("none")
        with pytest.raises(errors.BundleCorruptError, match=r"decoder\.onnx"):
            await pair.push("turned-1")
        with pytest.raises(errors.UnknownVariantError, match="no variant 'none'; there are full"):
            await pair.push("quadrants", "none")
        with pytest.raises(errors.BundleError, match="runs the encoder of renamed .* already, as quadrants"):
            await pair.push("renamed")
        listed = await pair.call(ControlClient.list_bundles)
        assert [info.model_id for info in listed] == ["quadrants", "renamed", "turned-1"]
        assert listed[0].variants == ("full",)
        assert not listed[0].signed
        assert set(await pair.end()) == {0}
    assert not list((world / "store" / "bundles").iterdir())


async def test_a_sensor_without_a_store_takes_no_bundle(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles_on_air.make_turned(world / "library" / "new", 1)
    async with moving(world, monkeypatch, bundle_store=None) as pair:
        with pytest.raises(errors.CommandRefusedError, match="takes no bundles over the air: start it with --bundle"):
            await pair.push("turned-1")
        assert set(await pair.end()) == {0}


async def test_a_sensor_of_a_release_that_knows_no_bundles_is_told_from_one_that_moved(world: Path) -> None:
    """It takes the command for a change of nothing."""
    bundles_on_air.make_turned(world / "library" / "new", 1)
    bundle = factories.make_bundle(world / "bundle")
    async with (
        serving(world / "bundle", library=world / "library") as (_, address),
        RawSensor(address, bundle) as sensor,
    ):
        await sensor.join()
        await sensor.send(sensor.batch(0, 2))
        await sensor.hear_results(0, 2)

        def push() -> None:
            with ControlClient(address) as client:
                client.push_bundle("cam", "turned-1", timeout_s=20)

        pushing = asyncio.create_task(asyncio.to_thread(push))
        command = await sensor.hear()
        assert isinstance(command, m.SetOperatingPoint)
        await sensor.send(sensor.announcement(command_id=command.command_id), sensor.batch(2, 2))
        with pytest.raises(errors.CommandRefusedError, match="of a release that takes no bundles"):
            await pushing


async def ask(address: str, use: Callable[[BundlesStub], "grpc.aio.UnaryStreamCall"]) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        return b"".join([chunk.data async for chunk in use(BundlesStub(channel))])


async def test_the_bundles_service_hands_out_what_sensors_need_and_nothing_else(world: Path) -> None:
    made = factories.make_bundle(world / "bundle")
    variant = made.manifest.variant()
    content = (made.path / variant.encoder.path).read_bytes()
    async with serving(world / "bundle", library=world / "library") as (_, address):

        def file(sha256: str, offset: int = 0, size: int = 0) -> Callable[[BundlesStub], "grpc.aio.UnaryStreamCall"]:
            return lambda stub: stub.GetFile(pb.GetFileRequest(sha256=sha256, offset=offset, max_bytes=size))

        encoder = variant.encoder.sha256
        assert await ask(address, file(encoder)) == content
        assert await ask(address, file(encoder, 10, 20)) == content[10:30]
        assert await ask(address, file(encoder, len(content))) == b""
        for sha256, match in [
            (variant.decoder.sha256, "BundleNotFoundError"),
            ("../../etc/passwd", "MalformedMessageError"),
            ("f" * 64, "BundleNotFoundError"),
        ]:
            with pytest.raises(grpc.aio.AioRpcError, match=match):
                await ask(address, file(sha256))
        with pytest.raises(grpc.aio.AioRpcError, match="BundleError: encoder.onnx cannot be read from byte"):
            await ask(address, file(encoder, 2**64 - 1))
        async with grpc.aio.insecure_channel(address) as channel:
            manifest = await BundlesStub(channel).GetManifest(pb.GetManifestRequest(model_id="quadrants"))
            assert manifest.manifest_json == (made.path / MANIFEST).read_bytes()
            assert manifest == await BundlesStub(channel).GetManifest(pb.GetManifestRequest())

"""Peers of another format, and peers that speak none: refused by name before anything is decoded."""

import json
import logging
from pathlib import Path

import factories
import grpc
import pytest
from raw_sensor import RawSensor, serving

from latentwire import wire
from latentwire.bundle import FORMAT_VERSION, PAYLOAD_FORMATS, Bundle, load_bundle
from latentwire.codec.parameters import TAILS
from latentwire.errors import BundleVersionError
from latentwire.v1 import stream_pb2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


def set_version(bundle: Bundle, version: int) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))


def as_version(bundle: Bundle, version: int) -> Bundle:
    """The same bundle, as a release of that format wrote it."""
    set_version(bundle, version)
    return load_bundle(bundle.path)


@pytest.mark.parametrize("version", PAYLOAD_FORMATS)
async def test_a_sensor_deployed_with_a_bundle_of_any_supported_format_is_served(version: int, tmp_path: Path) -> None:
    bundle = as_version(factories.make_bundle(tmp_path / "b"), version)
    assert bundle.codec_parameters("full", "gaussian").payload_format == PAYLOAD_FORMATS[version]
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(sensor.batch(0, 5))
        await sensor.hear_results(0, 5)


@pytest.mark.parametrize("version", [1, 3])
async def test_a_sensor_of_another_payload_format(
    bundle: Bundle, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is the same, so only the tables' digest can tell: the format's number is in it."""
    async with serving(bundle.path) as (_, address):
        with monkeypatch.context() as sensors_release:
            sensors_release.setitem(TAILS, version, b"")
            sensors_release.setitem(PAYLOAD_FORMATS, FORMAT_VERSION, version)
            sensor = RawSensor(address, load_bundle(bundle.path))
            hello = sensor.hello()
        async with sensor:
            await sensor.send(hello)
            code, details = await sensor.refusal()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert details.startswith("TableDigestError: tables of full/gaussian at rate scale 2 differ")
        assert details.endswith("run the same release on both sides")


@pytest.mark.parametrize("version", [0, 3])
async def test_a_sensor_of_another_bundle_format(bundle: Bundle, version: int, tmp_path: Path) -> None:
    """A bundle's digest covers its format's number; a program that cannot read that format says so at its start."""
    other = factories.make_bundle(tmp_path / "b")
    path = other.path / "manifest.json"
    set_version(other, version)
    with pytest.raises(BundleVersionError, match=f"bundle format version {version}; this program reads 1 and 2"):
        load_bundle(other.path)
    digest = factories.file_entry("manifest.json", path.read_bytes()).sha256
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.send(sensor.hello(bundle_digest=digest))
        code, details = await sensor.refusal()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert details.startswith("BundleMismatchError: the sensor runs bundle 'quadrants'")


@pytest.mark.parametrize("after_hello", [False, True])
@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x12\x04\x12\x02\xff\xfe"], ids=["no protobuf", "no UTF-8"])
async def test_bytes_that_are_no_message(
    bundle: Bundle, after_hello: bool, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(bundle.path) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            path = "/latentwire.v1.Sensors/Stream"
            call = channel.stream_stream(path, lambda sent: sent, stream_pb2.ServerMessage.FromString)()
            if after_hello:
                async with RawSensor(address, bundle) as sensor:
                    await call.write(wire.from_sensor_to_proto(sensor.hello()).SerializeToString())
                await call.read()
            await call.write(content)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (await call.details()).startswith("MalformedMessageError: the bytes are no message of a sensor")
        async with RawSensor(address, bundle) as sensor:  # and the others are served on
            await sensor.join()
            await sensor.send(sensor.batch(0, 2))
            await sensor.hear_results(0, 2)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

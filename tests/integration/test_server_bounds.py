"""No message takes a server long: those that would are refused before any work is done on them."""

import factories
import grpc
import pytest
from raw_sensor import RawSensor, serving

from latentwire.bundle import Bundle
from latentwire.codec import latent_codec
from latentwire.wire import MAX_OPERATING_POINTS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


async def test_a_hello_of_more_points_than_can_be_derived_at_once(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address):
        async with RawSensor(address, bundle) as sensor:
            points = tuple(sensor.announcement(1.0 + i) for i in range(MAX_OPERATING_POINTS))
            await sensor.join(operating_points=points)
        async with RawSensor(address, bundle) as sensor:
            points = tuple(sensor.announcement(1.0 + i) for i in range(MAX_OPERATING_POINTS + 1))
            await sensor.send(sensor.hello(operating_points=points))
            code, details = await sensor.refusal()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert details.startswith(f"MalformedMessageError: a hello names 1 to {MAX_OPERATING_POINTS} operating")


async def test_a_message_of_more_entries_than_can_be_decoded_at_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_codec, "MAX_ENTRIES", 3 * factories.D)
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(sensor.batch(0, 3))
        await sensor.hear_results(0, 3)
        await sensor.send(sensor.batch(3, 4))
        code, details = await sensor.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("MalformedMessageError: a message of this bundle carries at most 3 images, not 4")

"""The control service and its client against a real server, with a sensor played by hand."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import factories
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from raw_sensor import RawSensor, serving

from latentwire import errors
from latentwire import messages as m
from latentwire.bundle import Bundle
from latentwire.control_client import ControlClient

T = TypeVar("T")
VARIANTS = ("full", "small")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b", variants=VARIANTS)


@pytest.fixture
async def address(bundle: Bundle) -> AsyncIterator[str]:
    async with serving(bundle.path) as (_, address):
        yield address


@pytest.fixture
async def sensor(bundle: Bundle, address: str) -> AsyncIterator[RawSensor]:
    """A sensor that has joined and had a batch of 8 images answered at rate scale 2."""
    async with RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(sensor.batch(0, 8))
        await sensor.hear_results(0, 8)
        yield sensor


async def call(address: str, use: Callable[[ControlClient], T]) -> T:
    """Use the synchronous client, as a program beside the server would."""

    def in_thread() -> T:
        with ControlClient(address, timeout_s=5) as client:
            return use(client)

    return await asyncio.to_thread(in_thread)


async def setting(address: str, rate_scale: float, timeout_s: float = 10) -> tuple[m.Rate, m.Rate]:
    return await call(address, lambda client: client.set_rate("cam", rate_scale, timeout_s))


async def hear_command(sensor: RawSensor) -> m.SetOperatingPoint:
    command = await sensor.hear()
    assert isinstance(command, m.SetOperatingPoint), command
    return command


# seeing


async def test_sensors_are_listed_with_what_they_did(address: str, sensor: RawSensor) -> None:
    await sensor.send(m.DropReport({"queue full": 3}))
    broken = sensor.batch(8, 2)
    await sensor.send(m.LatentBatch(8, 2, broken.operating_point, broken.payload, broken.crc32 ^ 1))
    assert isinstance(await sensor.hear(), m.BatchRefused)
    (info,) = await call(address, ControlClient.list_sensors)
    assert (info.name, info.session, info.connected) == ("cam", "s1", True)
    assert info.peer.startswith("ipv4:127.0.0.1:")
    assert (info.images_answered, info.images_refused, info.dropped) == (8, 2, {"queue full": 3})
    assert info.images_per_s > 0
    assert info.rate == await call(address, lambda client: client.get_rate("cam"))


async def test_a_rate_is_measured_on_what_was_answered_at_it(address: str, sensor: RawSensor) -> None:
    rate = await call(address, lambda client: client.get_rate("cam"))
    assert rate == m.Rate(
        variant="full",
        model="gaussian",
        rate_scale=2.0,
        min_rate_scale=factories.RATE_MIN,
        max_rate_scale=factories.RATE_MAX,
        images=8,
        payload_bits_per_image=len(sensor.batch(0, 8).payload),  # 8 images, 8 bits a byte
        share_refined=1.0,
    )


async def test_a_sensor_that_left_is_still_listed(address: str, sensor: RawSensor) -> None:
    await sensor.close()
    assert await sensor.hear() is None
    (info,) = await call(address, ControlClient.list_sensors)
    assert not info.connected


async def test_a_watch_shows_changes_and_ends_with_the_server(bundle: Bundle) -> None:
    seen: list[tuple[m.SensorInfo, ...]] = []
    joined = threading.Event()

    def watch(client: ControlClient) -> None:
        for sensors in client.watch(interval_s=0.1):
            seen.append(sensors)
            if sensors:
                joined.set()

    async with serving(bundle.path) as (_, address):
        watching = asyncio.create_task(call(address, watch))
        while not seen:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert seen == [()]  # nothing changed, so nothing was said
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            assert await asyncio.to_thread(joined.wait, 5)
    await watching
    assert seen[1][0].name == "cam"


# turning the knob


async def test_a_set_rate_returns_with_the_first_batch_at_it(address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(setting(address, 8.0))
    command = await hear_command(sensor)
    assert (command.rate_scale, command.variant, command.model) == (8.0, None, None)
    await sensor.send(sensor.batch(8, 8))  # still at the old rate
    await sensor.hear_results(8, 8)
    await sensor.send(sensor.announcement(8.0, command_id=command.command_id))
    await asyncio.sleep(0.2)
    assert not turning.done()
    batch = sensor.batch(16, 4)
    await sensor.send(batch)
    await sensor.hear_results(16, 4)
    before, after = await turning
    assert (before.rate_scale, before.images) == (2.0, 16)
    assert (after.rate_scale, after.images, after.share_refined) == (8.0, 4, 1.0)
    assert after.payload_bits_per_image == 8 * len(batch.payload) / 4
    assert after.payload_bits_per_image > before.payload_bits_per_image > 0
    assert (await call(address, lambda client: client.get_rate("cam"))).rate_scale == 8.0


async def test_setting_the_rate_it_has_is_carried_out_too(address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(setting(address, 2.0))
    command = await hear_command(sensor)
    await sensor.send(sensor.announcement(2.0, command_id=command.command_id), sensor.batch(8, 2))
    before, after = await turning
    assert (before.images, after.images) == (8, 2)


async def test_a_refused_batch_at_the_new_rate_does_not_count(address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(setting(address, 4.0))
    command = await hear_command(sensor)
    await sensor.send(sensor.announcement(4.0, command_id=command.command_id))
    broken = sensor.batch(8, 2)
    await sensor.send(m.LatentBatch(8, 2, broken.operating_point, broken.payload, broken.crc32 ^ 1))
    assert isinstance(await sensor.hear(), m.BatchRefused)
    assert not turning.done()
    await sensor.send(sensor.batch(10, 2))
    assert (await turning)[1].images == 2


async def test_two_sets_at_once_are_carried_out_one_after_the_other(address: str, sensor: RawSensor) -> None:
    turning = [asyncio.create_task(setting(address, rate)) for rate in (3.0, 5.0)]
    first = 8
    for _ in turning:
        command = await hear_command(sensor)
        assert command.rate_scale is not None
        await sensor.send(sensor.announcement(command.rate_scale, command_id=command.command_id))
        await sensor.send(sensor.batch(first, 2))
        await sensor.hear_results(first, 2)
        first += 2
    assert [after.rate_scale for _, after in await asyncio.gather(*turning)] == [3.0, 5.0]


async def test_a_variant_is_set_like_a_rate(address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(call(address, lambda client: client.set_variant("cam", "small")))
    command = await hear_command(sensor)
    assert (command.variant, command.model, command.rate_scale) == ("small", None, None)  # the sensor knows best
    point = sensor.announcement(2.0, variant="small", command_id=command.command_id)
    await sensor.send(point, sensor.batch(8, 2))
    before, after = await turning
    assert (before.variant, after.variant) == ("full", "small")


# what cannot be done


@pytest.mark.parametrize("rate_scale", [0.0, -1.0, 0.49, 8.01, 1e300, float("nan"), float("inf")])
async def test_a_rate_out_of_range_never_reaches_the_sensor(address: str, sensor: RawSensor, rate_scale: float) -> None:
    with pytest.raises(errors.RateScaleError, match=r"outside this bundle's range: give 0\.5 to 8"):
        await setting(address, rate_scale)
    await sensor.send(sensor.batch(8, 1))
    await sensor.hear_results(8, 1)


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.get_rate("none"),
        lambda client: client.set_rate("none", 2.0),
        lambda client: client.set_variant("none", "small"),
    ],
)
async def test_an_unknown_sensor_is_named_beside_the_known(
    address: str, sensor: RawSensor, use: Callable[[ControlClient], object]
) -> None:
    with pytest.raises(errors.UnknownSensorError, match="no sensor 'none' has connected; known are: cam"):
        await call(address, use)


@pytest.mark.parametrize("variant", ["", "none"])
async def test_an_unknown_variant_is_named_beside_the_known(address: str, sensor: RawSensor, variant: str) -> None:
    with pytest.raises(errors.UnknownVariantError, match=f"no variant '{variant}'; there are full, small"):
        await call(address, lambda client: client.set_variant("cam", variant))


async def test_a_sensor_that_left_cannot_be_turned(address: str, sensor: RawSensor) -> None:
    await sensor.close()
    assert await sensor.hear() is None
    with pytest.raises(errors.CommandRefusedError, match="sensor 'cam' is not connected"):
        await setting(address, 4.0)


async def test_a_sensors_refusal_is_told(address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(setting(address, 4.0))
    command = await hear_command(sensor)
    await sensor.send(m.CommandRefused(command.command_id, "InferenceError", "no memory"))
    with pytest.raises(errors.CommandRefusedError, match="the sensor refused: InferenceError: no memory"):
        await turning


async def end(sensor: RawSensor) -> None:
    await sensor.close()


async def cut(sensor: RawSensor) -> None:
    await sensor.cut()


async def break_rules(sensor: RawSensor) -> None:
    await sensor.send(sensor.batch(99, 1))


@pytest.mark.parametrize("leave", [end, cut, break_rules])
@pytest.mark.parametrize("announced", [False, True])
async def test_a_sensor_that_leaves_during_a_set_is_told(
    address: str, sensor: RawSensor, leave: Callable[[RawSensor], Awaitable[None]], announced: bool
) -> None:
    turning = asyncio.create_task(setting(address, 4.0))
    command = await hear_command(sensor)
    if announced:
        await sensor.send(sensor.announcement(4.0, command_id=command.command_id))
    await leave(sensor)
    with pytest.raises(errors.CommandRefusedError, match="sensor 'cam' ended its stream before"):
        async with asyncio.timeout(5):
            await turning


async def test_a_sensor_that_is_replaced_during_a_set_is_told(bundle: Bundle, address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(setting(address, 4.0))
    await hear_command(sensor)
    async with RawSensor(address, bundle) as newer:
        await newer.join(next_sequence=8)
        with pytest.raises(errors.CommandRefusedError, match="sensor 'cam' ended its stream before"):
            async with asyncio.timeout(5):
                await turning


async def test_a_source_whose_last_batch_is_at_the_new_rate_has_done_it(address: str, sensor: RawSensor) -> None:
    turning = asyncio.create_task(setting(address, 4.0))
    command = await hear_command(sensor)
    await sensor.send(sensor.announcement(4.0, command_id=command.command_id), sensor.batch(8, 1))
    await sensor.close()
    assert (await turning)[1].images == 1


async def test_a_silent_sensor_is_waited_for_until_the_callers_deadline(address: str, sensor: RawSensor) -> None:
    with pytest.raises(errors.CommandRefusedError, match=r"at the new operating point within 0\.\d s|in time"):
        await setting(address, 4.0, timeout_s=0.5)
    command = await hear_command(sensor)
    await sensor.send(sensor.announcement(4.0, command_id=command.command_id), sensor.batch(8, 1))
    await sensor.hear_results(8, 1)  # late, but no harm
    assert (await call(address, lambda client: client.get_rate("cam"))).rate_scale == 4.0


async def test_the_servers_ceiling_caps_the_callers_deadline(bundle: Bundle) -> None:
    async with serving(bundle.path, command_timeout_s=0.2) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        with pytest.raises(errors.CommandRefusedError, match=r"within 0\.2 s"):
            await setting(address, 4.0)


async def test_a_budget_is_set_when_the_sensor_says_so(address: str, sensor: RawSensor) -> None:
    asking = asyncio.create_task(call(address, lambda client: client.set_budget("cam", 2000.0)))
    command = await sensor.hear()
    assert isinstance(command, m.SetRateControl)
    assert (command.automatic, command.max_age_s, command.budget_bits_per_s) == (None, None, 2000.0)
    control = m.RateControl(False, 2.0, 2000.0)
    await sensor.send(m.RateControlState(command.command_id, control))
    assert await asking == control
    assert (await call(address, lambda client: client.get_rate("cam"))).control == control


async def test_automatic_control_may_be_refused(address: str, sensor: RawSensor) -> None:
    asking = asyncio.create_task(call(address, lambda client: client.set_automatic("cam", True, 3.0)))
    command = await sensor.hear()
    assert isinstance(command, m.SetRateControl)
    assert (command.automatic, command.max_age_s, command.budget_bits_per_s) == (True, 3.0, None)
    await sensor.send(m.CommandRefused(command.command_id, "ControlError", "not today"))
    with pytest.raises(errors.CommandRefusedError, match="not today"):
        await asking


async def test_who_turns_the_knob_is_asked_of_a_connected_sensor_with_sane_numbers(
    address: str, sensor: RawSensor
) -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.MalformedMessageError, match="budget_bits_per_s"):
            await call(address, lambda client, bits=wrong: client.set_budget("cam", bits))  # type: ignore[misc]
    with pytest.raises(errors.UnknownSensorError):
        await call(address, lambda client: client.set_automatic("nobody"))


async def test_a_watch_needs_a_sane_interval(address: str) -> None:
    for interval_s in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.MalformedMessageError, match="interval_s"):
            await call(address, lambda client, s=interval_s: next(client.watch(s)))  # type: ignore[misc]


def test_nobody_at_the_address_is_said_with_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
        uses: list[Callable[[ControlClient], object]] = [
            ControlClient.list_sensors,
            lambda client: client.get_rate("cam"),
            lambda client: client.set_rate("cam", 2.0, timeout_s=5),
            lambda client: next(client.watch()),
        ]
        for use in uses:
            with (
                ControlClient(target, timeout_s=5) as client,
                pytest.raises(errors.ServerUnavailableError, match=f"no server answers at {target}: start"),
            ):
                use(client)


# around


async def test_every_change_is_logged_with_who_what_and_result(
    address: str, sensor: RawSensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "latentwire.audit")
    with pytest.raises(errors.RateScaleError):
        await setting(address, 99.0)
    turning = asyncio.create_task(setting(address, 4.0))
    command = await hear_command(sensor)
    await sensor.send(sensor.announcement(4.0, command_id=command.command_id), sensor.batch(8, 1))
    await turning
    refused, done = [r.message for r in caplog.records if r.name == "latentwire.audit"]
    assert refused.startswith("SetRate sensor='cam' rate_scale=99 who=anyone peer=ipv4:127.0.0.1:")
    assert 'result="RateScaleError: rate scale 99 is outside' in refused
    assert done.startswith("SetRate sensor='cam' rate_scale=4 who=anyone peer=ipv4:127.0.0.1:")
    assert done.endswith("result='done'")


async def test_health_and_reflection_are_served(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "latentwire.v1.Sensors", "latentwire.v1.Control"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def services() -> set[str]:
        with grpc.insecure_channel(address) as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert {"latentwire.v1.Sensors", "latentwire.v1.Control", "grpc.health.v1.Health"} <= await asyncio.to_thread(
        services
    )

"""Streams against a real server: sessions, refusals, and that one bad stream leaves the others be."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import factories
import grpc
import numpy as np
import pytest
from raw_sensor import RawSensor, serving

from edge_server import Server, ServerConfig
from latentwire import messages as m
from latentwire.bundle import Bundle
from latentwire.control_client import ControlClient
from latentwire.errors import BundleNotFoundError, InferenceError, ListenError
from latentwire.v1 import stream_pb2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


async def test_every_batch_is_answered_in_order(bundle: Bundle) -> None:
    limits = m.Limits(max_images_per_message=64, max_unanswered_images=128)
    async with serving(bundle.path, limits=limits) as (_, address), RawSensor(address, bundle) as sensor:
        assert await sensor.join() == m.Welcome(0, limits)
        sizes = [1, 64, 3, 17, 1, 40]
        firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        for first, images in zip(firsts, sizes, strict=True):
            await sensor.send(sensor.batch(first, images))
        await sensor.close()
        for first, images in zip(firsts, sizes, strict=True):
            await sensor.hear_results(first, images)
        assert await sensor.hear() is None
        assert await sensor.refusal() == (grpc.StatusCode.OK, "")


async def test_messages_in_flight_when_the_rate_changes_still_decode(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        batches = [sensor.batch(0, 8)]
        announcement = sensor.announcement(7.5, "anchored")
        batches.append(sensor.batch(8, 8))
        await sensor.send(batches[0], announcement, batches[1])
        await sensor.hear_results(0, 8)
        await sensor.hear_results(8, 8)


async def test_streams_of_many_sensors_are_answered_at_once(bundle: Bundle) -> None:
    async def one(address: str, name: str) -> None:
        async with RawSensor(address, bundle, name) as sensor:
            await sensor.join()
            for first in range(0, 50):
                await sensor.send(sensor.batch(first, 1))
            for first in range(0, 50):
                await sensor.hear_results(first, 1)

    async with serving(bundle.path) as (_, address):
        await asyncio.gather(*(one(address, f"cam{i}") for i in range(8)))


async def test_a_sensor_ahead_of_its_limit_is_slowed_and_loses_nothing(bundle: Bundle) -> None:
    limits = m.Limits(max_images_per_message=4, max_unanswered_images=4)
    settings = {"limits": limits, "max_queued_images": 4, "max_batch_images": 4}
    async with serving(bundle.path, **settings) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        for first in range(0, 400, 4):
            await sensor.send(sensor.batch(first, 4))
        for first in range(0, 400, 4):
            await sensor.hear_results(first, 4)


# what a cut link leaves behind


async def test_a_sensor_that_comes_back_gets_the_answers_it_lacks(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address):
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            await sensor.send(sensor.batch(0, 4), sensor.batch(4, 4), sensor.batch(8, 4))
            for first in (0, 4, 8):
                await sensor.hear_results(first, 4)
        async with RawSensor(address, bundle) as sensor:
            assert (await sensor.join(next_sequence=4)).next_sequence == 12
            await sensor.hear_results(4, 4)
            await sensor.hear_results(8, 4)
            await sensor.send(sensor.batch(4, 4), sensor.batch(12, 4))
            await sensor.hear_results(4, 4)  # a duplicate's answer is said again
            await sensor.hear_results(12, 4)


async def test_what_was_admitted_is_answered_though_the_stream_was_cut(bundle: Bundle) -> None:
    async with serving(bundle.path, batch_delay_s=1.0) as (server, address):
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            await sensor.send(sensor.batch(0, 4))
            session = server._sensors._registry.find("cam").session
            while session.expected < 4:  # until the server has read it; it is decoded a second later
                await asyncio.sleep(0.01)
            assert session.next_sequence == 0
        async with RawSensor(address, bundle) as sensor:
            assert (await sensor.join()).next_sequence == 4
            await sensor.hear_results(0, 4)


async def test_links_cut_at_random_lose_nothing_and_double_nothing(bundle: Bundle) -> None:
    random = np.random.default_rng(0)
    images, size = 600, 4
    answered: dict[int, m.Results] = {}

    async def listen(sensor: RawSensor) -> None:
        while isinstance(message := await sensor.hear(), m.Results):
            known = answered.setdefault(message.first_sequence, message)
            assert known == message  # said again at most, never classified anew

    async with serving(bundle.path, batch_delay_s=0.005) as (_, address):
        while len(answered) * size < images:
            async with RawSensor(address, bundle) as sensor:
                lacks = len(answered) * size
                first = (await sensor.join(next_sequence=lacks)).next_sequence
                listening = asyncio.create_task(listen(sensor))
                cut_s = asyncio.get_running_loop().time() + random.uniform(0, 0.05)
                while asyncio.get_running_loop().time() < cut_s and len(answered) * size < images:
                    if first < images:
                        await sensor.send(sensor.batch(first, size))
                        first += size
                    await asyncio.sleep(random.exponential(0.001))
                listening.cancel()
        async with RawSensor(address, bundle) as sensor:
            assert (await sensor.join(next_sequence=images)).next_sequence == images
            with ControlClient(address) as client:
                (info,) = await asyncio.to_thread(client.list_sensors)
            assert info.images_answered == images
    assert sorted(answered) == list(range(0, images, size))
    for first, results in answered.items():
        assert results.labels == tuple(factories.make_images(size, seed=first)[1].tolist())


async def test_a_restarted_server_goes_on_where_the_sensor_is(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        assert (await sensor.join(next_sequence=1000)).next_sequence == 1000
        await sensor.send(sensor.batch(1000, 2))
        await sensor.hear_results(1000, 2)


async def test_a_second_stream_of_a_session_takes_over(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as old:
        await old.join()
        await old.send(old.batch(0, 4))
        await old.hear_results(0, 4)
        async with RawSensor(address, bundle) as new:
            assert (await new.join(next_sequence=4)).next_sequence == 4
            code, details = await old.refusal()
            assert code is grpc.StatusCode.ABORTED
            assert details.startswith("ProtocolError: a newer stream of sensor 'cam'")
            await new.send(new.batch(4, 4))
            await new.hear_results(4, 4)


async def test_a_new_session_replaces_the_old_one(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle, session="old") as old:
        await old.join()
        await old.send(old.batch(0, 4))
        await old.hear_results(0, 4)
        async with RawSensor(address, bundle, session="new") as new:
            assert (await new.join()).next_sequence == 0
            code, details = await old.refusal()
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert details.startswith("SupersededError: another process took the name 'cam'")
            await new.send(new.batch(0, 3))
            await new.hear_results(0, 3)


async def test_sessions_beyond_the_bound_are_forgotten(bundle: Bundle) -> None:
    async with serving(bundle.path, max_sessions=2) as (_, address):
        for name in ("a", "b", "c"):
            async with RawSensor(address, bundle, name) as sensor:
                await sensor.join()
                await sensor.send(sensor.batch(0, 4))
                await sensor.hear_results(0, 4)
        async with RawSensor(address, bundle, "c") as sensor:
            assert (await sensor.join()).next_sequence == 4
        async with RawSensor(address, bundle, "a") as sensor:
            assert (await sensor.join()).next_sequence == 0


# refusals


async def test_a_bad_checksum_is_refused_and_the_stream_goes_on_as_do_others(bundle: Bundle) -> None:
    async with (
        serving(bundle.path) as (_, address),
        RawSensor(address, bundle, "good") as good,
        RawSensor(address, bundle, "bad") as bad,
    ):
        await good.join()
        await bad.join()
        for first in range(0, 40, 4):
            broken = bad.batch(first, 4)
            await bad.send(replace(broken, crc32=broken.crc32 ^ 1))
            await good.send(good.batch(first, 4))
        for first in range(0, 40, 4):
            refused = await bad.hear()
            assert isinstance(refused, m.BatchRefused)
            assert (refused.first_sequence, refused.images, refused.error) == (first, 4, "ChecksumError")
            await good.hear_results(first, 4)
        await bad.send(bad.batch(40, 4))
        await bad.hear_results(40, 4)


async def test_a_refused_batch_is_remembered_as_refused(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address):
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            await sensor.send(replace(sensor.batch(0, 4), payload=b"\xff" * 60))
            assert isinstance(await sensor.hear(), m.BatchRefused)
        async with RawSensor(address, bundle) as sensor:
            assert (await sensor.join()).next_sequence == 4
            assert isinstance(await sensor.hear(), m.BatchRefused)


HELLOS = {
    "BundleMismatchError: the sensor runs bundle 'other'": {"model_id": "other"},
    "BundleMismatchError: the sensor runs bundle 'quadrants' (abc)": {"bundle_digest": "abc"},
    "ProtocolVersionError: the sensor speaks protocol version 9, the server 1": {"protocol_version": 9},
    "TableDigestError: tables of full/gaussian at rate scale 2 differ": {
        "operating_points": (m.OperatingPointName(1, "full", "gaussian", 2.0, bytes(8)),)
    },
    "RateScaleError: rate scale 99 is outside": {
        "operating_points": (m.OperatingPointName(1, "full", "gaussian", 99.0, bytes(8)),)
    },
    "UnknownVariantError: no variant 'tiny'": {
        "operating_points": (m.OperatingPointName(1, "tiny", "gaussian", 2.0, bytes(8)),)
    },
    "MalformedMessageError: a hello names 1 to": {"operating_points": ()},
    "MalformedMessageError: sensor must be": {"sensor": "a\nb"},
}
CODES = {
    "BundleMismatchError": grpc.StatusCode.FAILED_PRECONDITION,
    "TableDigestError": grpc.StatusCode.FAILED_PRECONDITION,
    "ProtocolVersionError": grpc.StatusCode.UNIMPLEMENTED,
    "RateScaleError": grpc.StatusCode.INVALID_ARGUMENT,
    "MalformedMessageError": grpc.StatusCode.INVALID_ARGUMENT,
    "UnknownVariantError": grpc.StatusCode.NOT_FOUND,
}


@pytest.mark.parametrize("refused", HELLOS)
async def test_a_hello_that_cannot_be_served_is_refused_by_name(bundle: Bundle, refused: str) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.send(sensor.hello(**HELLOS[refused]))
        code, details = await sensor.refusal()
        assert details.startswith(refused)
        assert code is CODES[refused.partition(":")[0]]


async def test_too_many_operating_points_are_refused(bundle: Bundle) -> None:
    async with serving(bundle.path, max_operating_points=2) as (_, address), RawSensor(address, bundle) as sensor:
        points = tuple(sensor.announcement(1.0 + i) for i in range(3))
        await sensor.send(sensor.hello(operating_points=points))
        code, details = await sensor.refusal()
        assert (code, details[:51]) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "MalformedMessageError: a hello names at most 2 oper",
        )


async def test_an_operating_point_long_past_is_forgotten(bundle: Bundle) -> None:
    async with serving(bundle.path, max_operating_points=2) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        old = sensor.batch(0, 1)
        await sensor.send(sensor.announcement(3.0), sensor.announcement(4.0), old)
        assert (await sensor.refusal())[1].startswith("UnknownOperatingPointError")


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"operating_point": 7}, "UnknownOperatingPointError: a batch names operating point 7"),
        ({"first_sequence": 5}, "SequenceError: a batch begins at image 5, but 4 is next"),
        ({"first_sequence": 2}, "SequenceError: a batch holds images 2 to 5, but those before 4 are known"),
        ({"images": 0}, "MalformedMessageError: a message carries 1 to 8 images"),
        ({"images": 9}, "MalformedMessageError: a message carries 1 to 8 images"),
        ({"payload": bytes(101)}, "MalformedMessageError: a payload has at most 100 bytes"),
    ],
)
async def test_a_batch_against_the_rules_ends_the_stream_after_what_came_before(
    bundle: Bundle, change: dict[str, object], refused: str
) -> None:
    limits = m.Limits(max_images_per_message=8, max_payload_bytes=100)
    async with serving(bundle.path, limits=limits) as (_, address):
        async with RawSensor(address, bundle) as sensor:
            await sensor.join()
            await sensor.send(sensor.batch(0, 4))
            await sensor.send(replace(sensor.batch(4, 4), **change))  # type: ignore[arg-type]
            await sensor.hear_results(0, 4)
            code, details = await sensor.refusal()
            assert details.startswith(refused)
            assert code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
        async with RawSensor(address, bundle) as sensor:
            assert (await sensor.join(next_sequence=4)).next_sequence == 4
            await sensor.send(sensor.batch(4, 4))
            await sensor.hear_results(4, 4)


async def test_tables_that_differ_after_a_change_end_the_stream(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(replace(sensor.announcement(3.0), digest=bytes(8)))
        code, details = await sensor.refusal()
        assert (code, details[:16]) == (grpc.StatusCode.FAILED_PRECONDITION, "TableDigestError")


@pytest.mark.parametrize("first", ["batch", "nothing", "silence", "empty"])
async def test_a_stream_that_does_not_begin_with_a_hello_is_ended(bundle: Bundle, first: str) -> None:
    async with serving(bundle.path, hello_timeout_s=0.2) as (_, address), RawSensor(address, bundle) as sensor:
        match first:
            case "batch":
                sensor.announcement()
                await sensor.send(sensor.batch(0, 1))
            case "nothing":
                await sensor.close()
            case "empty":
                await sensor.send_raw(stream_pb2.SensorMessage())
        code, details = await sensor.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("MalformedMessageError: ") and "hello" in details


async def test_a_second_hello_and_an_empty_message_end_the_stream(bundle: Bundle) -> None:
    async with serving(bundle.path) as (_, address):
        for message in (stream_pb2.SensorMessage(), stream_pb2.SensorMessage(hello=stream_pb2.Hello())):
            async with RawSensor(address, bundle) as sensor:
                await sensor.join()
                await sensor.send_raw(message)
                assert (await sensor.refusal())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_over_the_size_limit_is_refused(bundle: Bundle) -> None:
    limits = m.Limits(max_payload_bytes=1000)
    async with serving(bundle.path, limits=limits) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(replace(sensor.batch(0, 4), payload=bytes(10**6)))
        assert (await sensor.refusal())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_decoder_that_fails_ends_the_stream_and_its_images_come_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(bundle.path) as (_, address):
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise InferenceError("out of memory")

            async with RawSensor(address, bundle) as sensor:
                await sensor.join()
                broken.setattr("edge_server.decoder.Decoder.run", fail)
                await sensor.send(sensor.batch(0, 4))
                assert await sensor.refusal() == (grpc.StatusCode.INTERNAL, "InferenceError: out of memory")
        async with RawSensor(address, bundle) as sensor:
            assert (await sensor.join()).next_sequence == 0
            await sensor.send(sensor.batch(0, 4))
            await sensor.hear_results(0, 4)


# starting


async def test_a_busy_port_is_named(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(bundle.path) as (_, address):
        second = Server(ServerConfig(bundle.path, listen=address))
        with pytest.raises(ListenError, match=f"cannot listen on {address}: Address already in use; stop what"):
            await second.start()
    assert capfd.readouterr().err == ""  # gRPC adds no line of its own


async def test_an_address_of_another_machine_is_named(bundle: Bundle) -> None:
    with pytest.raises(ListenError, match="Cannot assign requested address"):
        await Server(ServerConfig(bundle.path, listen="192.0.2.1:0", insecure=True)).start()


async def test_a_bundle_that_is_not_there_leaves_the_port_free(bundle: Bundle, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BundleNotFoundError):
        await Server(ServerConfig(tmp_path / "none", listen=listen)).start()
    async with serving(bundle.path, listen=listen) as (_, address):
        assert address == listen


async def test_a_host_without_an_address_is_named(bundle: Bundle) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on host\.invalid:0: [A-Z].*; stop what"):
        await Server(ServerConfig(bundle.path, listen="host.invalid:0", insecure=True)).start()

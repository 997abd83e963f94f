"""The sensor against a scripted server: refusals, commands, drop reports, servers that break the protocol."""

import asyncio
from dataclasses import replace
from pathlib import Path

import factories
import grpc
import pytest
from PIL import Image
from sensor_server import IMAGES, FakeStream, Runner, honest, serving

from edge_sensor import run_sensor
from latentwire import errors
from latentwire import messages as m


@pytest.fixture
def runner(made: Path, tmp_path: Path) -> Runner:
    return Runner(made, tmp_path)


async def test_a_refused_batch_counts_as_dropped_by_the_refusals_name(runner: Runner) -> None:
    async def refuse_the_third(stream: FakeStream) -> None:
        await stream.greet()
        while (batch := await stream.batch()) is not None:
            if batch.first_sequence == 16:
                await stream.send(m.BatchRefused(16, batch.images, "ChecksumError", "damaged"))
            else:
                await stream.answer(batch)

    async with serving(refuse_the_third) as (_, server):
        report = await runner.run(server)
    assert (report.images_answered, report.images_refused) == (92, 8)
    assert report.dropped == {"ChecksumError": 8}
    refused = [row for row in runner.rows() if "dropped" in row]
    assert [row["sequence"] for row in refused] == list(range(16, 24))
    assert {row["dropped"] for row in refused} == {"ChecksumError"}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "BundleMismatchError"),
        (grpc.StatusCode.FAILED_PRECONDITION, "TableDigestError"),
        (grpc.StatusCode.UNIMPLEMENTED, "ProtocolVersionError"),
        (grpc.StatusCode.INVALID_ARGUMENT, "MalformedMessageError"),
    ],
)
async def test_a_refusal_for_good_ends_the_run_with_its_name(runner: Runner, code: grpc.StatusCode, name: str) -> None:
    async with serving(lambda stream: stream.refuse(code, f"{name}: fetch its bundle: now")) as (fake, server):
        with pytest.raises(getattr(errors, name), match=r"^fetch its bundle: now$"):
            await runner.run(server)
    assert len(fake.streams) == 1


async def test_a_refusal_in_mid_stream_accounts_for_what_was_sent(runner: Runner) -> None:
    async def refuse_later(stream: FakeStream) -> None:
        await stream.greet()
        batch = await stream.batch()
        assert batch is not None
        await stream.answer(batch)
        await stream.batch()
        await stream.refuse(grpc.StatusCode.FAILED_PRECONDITION, "SequenceError: a hole")

    async with serving(refuse_later) as (_, server):
        with pytest.raises(errors.SequenceError, match="a hole"):
            await runner.run(server)
    rows = runner.rows()
    sequences = [row["sequence"] for row in rows if "sequence" in row]
    assert sorted(sequences) == list(range(len(sequences)))
    assert sum("label" in row for row in rows) == 8


async def test_a_server_of_something_else_is_said(runner: Runner) -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        with pytest.raises(errors.ProtocolError, match="is no Latentwire server"):
            await runner.run(f"127.0.0.1:{port}")
    finally:
        await other.stop(0)


async def test_the_knob_turns_between_messages(runner: Runner) -> None:
    async def turn(stream: FakeStream) -> None:
        await stream.greet()
        for number in range(100):
            batch = await stream.batch()
            if batch is None:
                return
            if number == 2:
                await stream.send(m.SetOperatingPoint(7, rate_scale=4.0))
                await stream.send(m.SetOperatingPoint(8, rate_scale=1e9))
                await stream.send(m.SetOperatingPoint(9, variant="nonsense"))
            await stream.answer(batch)
            await asyncio.sleep(0.01)

    async with serving(turn) as (fake, server):
        await runner.run(server, limit=400, max_unanswered_images=16)
    runner.answered_once(400)
    got = fake.streams[0].got
    refused = {message.command_id: message.error for message in got if isinstance(message, m.CommandRefused)}
    assert refused == {8: "RateScaleError", 9: "UnknownVariantError"}
    (name,) = (message for message in got if isinstance(message, m.OperatingPointName))
    assert (name.id, name.rate_scale, name.command_id, name.variant) == (2, 4.0, 7, "full")
    at = got.index(name)
    assert {b.operating_point for b in got[:at] if isinstance(b, m.LatentBatch)} == {1}
    assert {b.operating_point for b in got[at:] if isinstance(b, m.LatentBatch)} == {2}
    rates = {row["rate_scale"] for row in runner.rows()}
    assert rates == {factories.RATE_DEFAULT, 4.0}


async def test_a_variant_is_switched_and_survives_a_reconnect(runner: Runner) -> None:
    async def switch(stream: FakeStream) -> None:
        await stream.greet()
        await stream.send(m.SetOperatingPoint(1, variant="small", model="anchored"))
        while (message := await stream.read()) is not None:
            if isinstance(message, m.LatentBatch):
                if message.operating_point == 2:
                    await stream.cut()
                await stream.answer(message)

    async with serving(switch, honest) as (fake, server):
        await runner.run(server, limit=400, max_unanswered_images=16)
    runner.answered_once(400)
    current = fake.streams[1].hello.operating_points[-1]
    assert (current.id, current.variant, current.model, current.command_id) == (2, "small", "anchored", 1)
    assert {batch.operating_point for batch in fake.streams[1].batches} <= {
        point.id for point in fake.streams[1].hello.operating_points
    }
    assert runner.rows()[-1]["variant"] == "small"


async def test_a_slow_open_message_is_closed_when_the_knob_turns(made: Path, runner: Runner) -> None:
    async def turn(stream: FakeStream) -> None:
        await stream.greet()
        await stream.send(m.SetOperatingPoint(7, rate_scale=4.0))
        await stream.answer_all()

    async with serving(turn) as (fake, server):
        await runner.run(server, limit=None, images_per_message=64)
    runner.answered_once(IMAGES)
    assert any(isinstance(message, m.OperatingPointName | m.CommandRefused) for message in fake.streams[0].got)


async def test_dropped_images_are_reported_to_the_server(made: Path, runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"junk")
    async with serving() as (fake, server):
        report = await runner.run(server, source=str(folder), limit=None)
    assert (report.images_answered, report.dropped) == (1, {"ImageError": 1})
    reports = [message for message in fake.streams[0].got if isinstance(message, m.DropReport)]
    assert dict(reports[-1].dropped) == {"ImageError": 1}
    assert {"item": "bad.png", "dropped": "ImageError"} in runner.rows()


@pytest.mark.parametrize(
    ("results", "error"),
    [
        (m.Results(1000, (0,), (0.5,)), "SequenceError"),
        (m.Results(0, (4,), (0.5,)), "MalformedMessageError"),
        (m.Results(0, (0,), (float("nan"),)), "MalformedMessageError"),
        (m.Welcome(0), "MalformedMessageError"),
        (m.BatchRefused(5000, 1, "CodecError", ""), "SequenceError"),
    ],
)
async def test_a_server_that_breaks_the_protocol_ends_the_run(
    runner: Runner, results: m.FromServer, error: str
) -> None:
    async def wrong(stream: FakeStream) -> None:
        await stream.greet()
        await stream.batch()
        await stream.send(results)
        await stream.answer_all()

    async with serving(wrong) as (_, server):
        with pytest.raises(getattr(errors, error)):
            await runner.run(server)


async def test_a_source_without_one_good_image_ends_the_run(runner: Runner, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"junk")
    async with serving() as (_, server):
        with pytest.raises(errors.SourceError, match="not one image"):
            await runner.run(server, source=str(bad))


async def test_an_observer_sees_the_symbols_of_every_message(runner: Runner) -> None:
    seen: list[tuple[int, int]] = []
    async with serving() as (fake, server):
        config = replace(runner.config, server=server)
        observe = lambda message, coded: seen.append((message.batch.first_sequence, coded.crc32))  # noqa: E731
        await asyncio.to_thread(run_sensor, config, observe)
    assert seen == [(batch.first_sequence, batch.crc32) for batch in fake.streams[0].batches]

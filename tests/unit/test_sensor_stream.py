"""The sensor against a scripted server: links that break, answers that repeat, refusals, commands."""

import asyncio
import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import grpc
import pytest
from PIL import Image
from sensor_server import FakeServer, FakeStream, honest, serving

from edge_sensor import SensorConfig, SensorReport, run_sensor
from latentwire import errors
from latentwire import messages as m
from latentwire.errors import ServerUnavailableError

IMAGES = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and 20 images."""
    folder = tmp_path_factory.mktemp("sensor")
    factories.make_bundle(folder / "bundle", variants=("full", "small"))
    images, labels = factories.make_images(IMAGES)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "images" / factories.CLASSES[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(path)
    return folder


class Runner:
    """Runs sensors on what was made, and reads what they wrote."""

    def __init__(self, made: Path, folder: Path) -> None:
        self.results = folder / "results.jsonl"
        self.config = SensorConfig(
            bundle=made / "bundle",
            server="127.0.0.1:1",
            source=str(made / "images"),
            name="mast",
            results=self.results,
            limit=100,
            images_per_message=8,
            delay_s=5.0,
            max_backoff_s=0.2,
            connect_timeout_s=5.0,
            progress=False,
        )

    async def run(self, server: str, **settings: Any) -> SensorReport:
        return await asyncio.to_thread(run_sensor, replace(self.config, server=server, **settings))

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]

    def answered_once(self, images: int) -> None:
        """Every image up to ``images`` has one line, with the answer that was given to it."""
        rows = self.rows()
        assert sorted(row["sequence"] for row in rows) == list(range(images))
        assert all(row["label_index"] == row["sequence"] % 4 for row in rows)


@pytest.fixture
def runner(made: Path, tmp_path: Path) -> Runner:
    return Runner(made, tmp_path)


def sent_batches(fake: FakeServer) -> dict[int, m.LatentBatch]:
    """All batches of all streams by their first sequence: what is sent again must be as it was."""
    batches: dict[int, m.LatentBatch] = {}
    for stream in fake.streams:
        for batch in stream.batches:
            assert batches.setdefault(batch.first_sequence, batch) == batch
    return batches


async def test_every_image_is_sent_and_answered_once(runner: Runner) -> None:
    async with serving() as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    (stream,) = fake.streams
    assert (stream.hello.sensor, stream.hello.next_sequence) == ("mast", 0)
    assert [point.id for point in stream.hello.operating_points] == [1]
    assert [batch.images for batch in stream.batches] == [8] * 12 + [4]
    assert (report.images_sent, report.images_answered, report.reconnects) == (100, 100, 0)
    assert report.dropped == {}
    assert report.images_with_truth == 100
    assert {row["message"] for row in runner.rows()} == set(range(0, 100, 8))
    assert all(row["sent_s"] >= row["captured_s"] for row in runner.rows())


async def test_without_a_limit_a_recorded_source_is_read_once(runner: Runner) -> None:
    async with serving() as (_, server):
        report = await runner.run(server, limit=None)
    runner.answered_once(IMAGES)
    assert report.images_answered == IMAGES


async def test_a_cut_link_is_made_again_and_nothing_is_lost(runner: Runner) -> None:
    async def cut_after_two(stream: FakeStream) -> None:
        await stream.greet()
        for _ in range(2):
            batch = await stream.batch()
            assert batch is not None
            await stream.answer(batch)
        for _ in range(3):
            await stream.batch()
        await stream.cut()

    async with serving(cut_after_two, cut_after_two, honest) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert report.reconnects == 2
    assert len(fake.streams) == 3
    assert len({stream.hello.session for stream in fake.streams}) == 1
    assert set(sent_batches(fake)) == set(range(0, 100, 8))
    resumed = fake.streams[1]
    assert resumed.hello.next_sequence == resumed.batches[0].first_sequence == 16


async def test_a_server_that_has_answered_more_is_not_sent_that_again(runner: Runner) -> None:
    kept: list[m.LatentBatch] = []

    async def answer_into_the_void(stream: FakeStream) -> None:
        await stream.greet()
        for _ in range(4):
            batch = await stream.batch()
            assert batch is not None
            kept.append(batch)
        await stream.cut()

    async def answer_late(stream: FakeStream) -> None:
        assert stream.hello.next_sequence == 0
        await stream.greet(next_sequence=32)
        for batch in kept:
            await stream.answer(batch)
            await stream.answer(batch)
        await stream.answer_all()

    async with serving(answer_into_the_void, answer_late) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert fake.streams[1].batches[0].first_sequence == 32
    assert report.duplicates == 32


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


async def test_a_server_that_is_not_there_is_given_up_in_time(runner: Runner) -> None:
    started_s = time.monotonic()
    with pytest.raises(ServerUnavailableError, match=r"no server answers at 127.0.0.1:1 .*start one there"):
        await runner.run("127.0.0.1:1", connect_timeout_s=0.5)
    assert 0.4 < time.monotonic() - started_s < 4


async def test_a_port_that_takes_and_never_answers_is_given_up_in_time(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServerUnavailableError):
        await runner.run(f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.5)


async def test_a_server_that_never_welcomes_is_given_up_in_time(runner: Runner) -> None:
    async def mute(stream: FakeStream) -> None:
        await stream.read()

    async with serving(mute) as (_, server):
        with pytest.raises(ServerUnavailableError, match="no answer in time"):
            await runner.run(server, connect_timeout_s=0.5)


async def test_a_server_that_comes_later_is_found(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = asyncio.create_task(runner.run(f"127.0.0.1:{port}"))
    await asyncio.sleep(0.5)
    fake, late = FakeServer(), grpc.aio.server()
    from latentwire.v1.stream_pb2_grpc import add_SensorsServicer_to_server

    add_SensorsServicer_to_server(fake, late)
    late.add_insecure_port(f"127.0.0.1:{port}")
    await late.start()
    report = await running
    await late.stop(0)
    assert report.images_answered == 100


async def test_the_servers_limits_are_kept(runner: Runner) -> None:
    async def narrow(stream: FakeStream) -> None:
        await stream.greet(limits=m.Limits(max_images_per_message=3, max_unanswered_images=7))
        waiting: list[m.LatentBatch] = []
        while True:
            try:
                async with asyncio.timeout(0.2):
                    batch = await asyncio.shield(pending := asyncio.ensure_future(stream.batch()))
            except TimeoutError:  # the sensor waits: its window is full, or it is done
                assert waiting
                for known in waiting:
                    await stream.answer(known)
                waiting = []
                batch = await pending
            if batch is None:
                break
            assert batch.images <= 3
            waiting.append(batch)
            assert sum(known.images for known in waiting) <= 7
            if batch.first_sequence + batch.images == 20:
                for known in waiting:
                    await stream.answer(known)
                waiting = []

    async with serving(narrow) as (_, server):
        report = await runner.run(server, limit=20)
    runner.answered_once(20)
    assert report.images_answered == 20


async def test_a_drain_is_obeyed(runner: Runner) -> None:
    async def go_away(stream: FakeStream) -> None:
        await stream.greet()
        taken = [await stream.batch() for _ in range(3)]
        await stream.send(m.Drain("maintenance"))
        await asyncio.sleep(0.1)
        for batch in taken:
            assert batch is not None
            await stream.answer(batch)
        await stream.answer_all()  # ends when the sensor closes its half

    async with serving(go_away, honest) as (fake, server):
        report = await runner.run(server)
    runner.answered_once(100)
    assert report.reconnects == 1
    drained, after = fake.streams
    ends = [batch.first_sequence + batch.images for batch in drained.batches]
    assert after.batches[0].first_sequence == ends[-1], "all that was sent before was answered there"
    assert sum(batch.images for stream in fake.streams for batch in stream.batches) == 100


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

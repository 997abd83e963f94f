"""A tuning on trial: what keeps it, what takes it back, and what a coder does with the images it failed on."""

import asyncio
from pathlib import Path

import bundles_on_air
import factories
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sensor.coder import MessageCoder, Tuning
from edge_sensor.encoder import Encoder, Latents
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.session import Session, Trial, said
from edge_sensor.sources import Frame
from edge_sensor.tuner import Tuner
from latentwire.bundle import Bundle
from latentwire.errors import ChecksumError, CommandRefusedError, InferenceError
from latentwire.messages import CommandRefused
from latentwire.operating_point import OperatingPoints


class Failing:
    """An encoder that fails on everything."""

    def encode(self, images: NDArray[np.uint8]) -> Latents:
        raise InferenceError(f"no, not {len(images)} images")


class Moving:
    """A session of one bundle, and another one to move to."""

    def __init__(self, folder: Path) -> None:
        self.old = factories.make_bundle(folder / "old")
        self.new = bundles_on_air.make_turned(folder / "new", 1)
        self.encoders: dict[str, Encoder] = {b.digest: self.tuner(b).encoder("full") for b in (self.old, self.new)}
        point = self.tuner(self.old).point(None, None, None)
        self.session = Session("s", "cam", self.old, point, self.encoders[self.old.digest], 64, 4, lambda _: None)

    def tuner(self, bundle: Bundle) -> Tuner:
        return Tuner(bundle, OperatingPoints(bundle), threads=1, batch_images=4)

    def try_out(self, command_id: int = 7, encoder: Encoder | None = None) -> Trial:
        point = self.tuner(self.new).point(None, None, None)
        return self.session.try_out(point, encoder or self.encoders[self.new.digest], command_id, self.new)

    def refusals(self) -> list[tuple[int, str]]:
        return [(r.command_id, r.error) for r in self.session.refusals if isinstance(r, CommandRefused)]


@pytest.fixture
async def moving(tmp_path: Path) -> Moving:
    return Moving(tmp_path)


async def test_a_trial_is_passed_by_the_first_answer_at_its_point(moving: Moving) -> None:
    session, before = moving.session, moving.session.tuning
    trial = moving.try_out()
    assert session.bundle is moving.old and session.target_bundle is moving.new
    session.answered(before.name)
    assert not trial.passed.done()
    session.at_boundary()
    assert (session.bundle, session.tuning.on_trial) == (moving.new, True)
    assert (session.tuning.name.command_id, session.tuning.name.sensor_digest) == (7, moving.new.sensor_digest)
    session.answered(before.name)  # coded before the switch
    assert not trial.passed.done()
    session.answered(session.tuning.name)
    assert await trial.passed is None  # type: ignore[func-returns-value]
    assert not session.tuning.on_trial
    assert not session.failed(InferenceError("later"))


async def test_a_batch_that_the_server_refuses_takes_a_trial_back(moving: Moving) -> None:
    session, before = moving.session, moving.session.tuning
    trial = moving.try_out()
    session.at_boundary()
    assert not session.failed(ChecksumError("of an earlier message"), before.name)
    assert session.failed(ChecksumError("wrong"), session.tuning.name)
    with pytest.raises(ChecksumError):
        await trial.passed
    session.at_boundary()
    now = session.tuning
    assert (now.point, now.encoder, now.bundle, now.on_trial) == (before.point, before.encoder, moving.old, False)
    assert now.name.id > trial.first_id  # an id is never used again
    session.answered(now.name)


async def test_the_hello_names_the_bundle_of_every_point_that_is_of_another(moving: Moving) -> None:
    before = moving.session.tuning.name
    moving.try_out()
    moving.session.at_boundary()
    hello = moving.session.hello()
    assert (hello.bundle_digest, hello.sensor_digest) == (moving.new.digest, moving.new.sensor_digest)
    assert [name.sensor_digest for name in hello.operating_points] == [""]
    assert said(before, hello.sensor_digest).sensor_digest == moving.old.sensor_digest


async def test_a_change_of_rate_by_the_sensor_itself_rides_on_a_waiting_trial(moving: Moving) -> None:
    session = moving.session
    trial = moving.try_out()
    session.turn(moving.tuner(moving.new).point(None, None, 4.0), session.target_encoder, 0)
    session.at_boundary()
    assert (session.tuning.point.rate_scale, session.tuning.name.command_id) == (4.0, 7)
    session.answered(session.tuning.name)
    assert trial.passed.done()


async def test_a_trial_that_another_command_replaces_or_that_comes_too_late_is_told(moving: Moving) -> None:
    session = moving.session
    replaced = moving.try_out()
    late = moving.try_out()
    with pytest.raises(CommandRefusedError, match="a later command took its place"):
        await replaced.passed
    session.end_coding()
    with pytest.raises(CommandRefusedError, match="the sensor has coded its last image"):
        await late.passed
    assert moving.refusals() == []  # whoever waits for the trial says so


async def test_a_rate_that_was_to_change_with_the_trial_is_refused_with_it(moving: Moving) -> None:
    session = moving.session
    moving.try_out()
    session.at_boundary()
    session.turn(moving.tuner(moving.new).point(None, None, 4.0), session.target_encoder, 8)
    assert session.failed(InferenceError("no"))
    assert moving.refusals() == [(8, "CommandRefusedError")]
    session.at_boundary()
    assert session.bundle is moving.old


async def test_frames_an_encoder_failed_on_are_coded_by_the_next(moving: Moving) -> None:
    images, _ = factories.make_images(6)
    queue = FrameQueue(6)
    for number, image in enumerate(images):
        queue.put(Frame(str(number), image, None, 0.0), live=False)
    queue.end()
    drops: list[str] = []
    coder = MessageCoder(queue, lambda item, _: drops.append(item), 0.0)
    good = moving.session.tuning
    bad = Tuning(good.point, good.name, Failing(), moving.new, on_trial=True)
    with pytest.raises(InferenceError):
        await asyncio.to_thread(coder.next_messages, bad, 0, 4, 1 << 20)
    sent = []
    while (messages := await asyncio.to_thread(coder.next_messages, good, 0, 3, 1 << 20)) is not None:
        sent += [picture.item for message in messages for picture in message.pictures]
    assert sent == [str(number) for number in range(6)]
    assert drops == []

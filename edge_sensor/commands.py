"""Carries out what the server commands: turns the knob, and has the updater see to other variants and bundles."""

import asyncio
import logging

from edge_sensor.frame_queue import FrameQueue
from edge_sensor.rate_control_run import RateControlTask
from edge_sensor.session import Session
from edge_sensor.tuner import Tuner
from edge_sensor.update import Updater
from latentwire.errors import CommandRefusedError, LatentwireError
from latentwire.messages import SetOperatingPoint, SetRateControl

_MAX_WAITING = 64

log = logging.getLogger("latentwire.sensor")


class Commands:
    """Changes of the rate in the order they came, one at a time, and beside them changes of variant and bundle.

    Those that cannot be carried out are refused by name.
    """

    def __init__(
        self, session: Session, tuner: Tuner, queue: FrameQueue, updater: Updater, control: RateControlTask
    ) -> None:
        self._session = session
        self._tuner = tuner
        self._queue = queue
        self._updater = updater
        self._control = control
        self._waiting: asyncio.Queue[SetOperatingPoint] = asyncio.Queue(_MAX_WAITING)

    def put(self, command: SetOperatingPoint | SetRateControl) -> None:
        """Take a command from the stream."""
        if isinstance(command, SetRateControl):
            self._control.apply(command)
            return
        if command.bundle_digest is not None or command.variant is not None:
            self._updater.put(command)
            return
        try:
            self._waiting.put_nowait(command)
        except asyncio.QueueFull:
            self._session.refuse(command.command_id, CommandRefusedError("too many commands are waiting"))

    async def run(self) -> None:
        """Carry commands out until cancelled."""
        while True:
            command = await self._waiting.get()
            try:
                await self._carry_out(command)
            except LatentwireError as error:
                log.warning("a command is refused: %s", error)
                self._session.refuse(command.command_id, error)

    async def _carry_out(self, command: SetOperatingPoint) -> None:
        session = self._session
        await session.wakeup.wait_for(lambda: not session.turning)  # or this change would take a greater one's place
        self._tuner = self._tuner.of(session.bundle)
        point = await asyncio.to_thread(self._tuner.changed, session.target, command)
        if session.coded_all:
            raise CommandRefusedError("the sensor has coded its last image")
        self._control.by_hand()
        session.turn(point, session.target_encoder, command.command_id)
        self._queue.hurry()

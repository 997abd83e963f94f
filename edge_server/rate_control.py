"""Who turns a sensor's knob: what the sensor said last, and commands that change it."""

import asyncio
import math
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from latentwire import messages as m
from latentwire.errors import CommandRefusedError, MalformedMessageError

if TYPE_CHECKING:
    from edge_server.registry import Sensor


class ControlBook:
    """One sensor's rate control, and the calls that wait for it to change."""

    def __init__(self) -> None:
        """By hand, until the sensor says otherwise."""
        self.control = m.RateControl()
        self._waiting: dict[int, asyncio.Future[m.RateControl]] = {}

    def issue(self) -> tuple[int, "asyncio.Future[m.RateControl]"]:
        """A command's id, and what becomes the sensor's answer to it."""
        command_id = secrets.randbits(63) | 1
        answer = self._waiting[command_id] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._waiting.pop(command_id, None))
        return command_id, answer

    def said(self, state: m.RateControlState) -> None:
        """The sensor said who turns its knob."""
        self.control = state.control
        answer = self._waiting.get(state.command_id)
        if answer is not None and not answer.done():
            answer.set_result(state.control)

    def refused(self, refusal: m.CommandRefused) -> None:
        """The sensor will not carry a command out; it may be none of these."""
        answer = self._waiting.get(refusal.command_id)
        if answer is not None and not answer.done():
            answer.set_exception(CommandRefusedError(f"the sensor refused: {refusal.error}: {refusal.message}"))


async def command_rate_control(sensor: "Sensor", command: m.SetRateControl, timeout_s: float) -> m.RateControl:
    """Send a sensor a command about who turns its knob; returns when the sensor says that it is so.

    MalformedMessageError for numbers that cannot be, CommandRefusedError if the sensor does not do it in time.
    """
    for field in ("max_age_s", "budget_bits_per_s"):
        if not 0 <= (getattr(command, field) or 0.0) < math.inf:
            raise MalformedMessageError(f"{field} must be a number that is not negative")
    if sensor.link is None:
        raise CommandRefusedError(f"sensor {sensor.name!r} is not connected; see 'ctl sensors'")
    command_id, answer = sensor.rate_control.issue()
    sensor.link.send(replace(command, command_id=command_id))
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except TimeoutError:
        raise CommandRefusedError(
            f"sensor {sensor.name!r} did not answer within {timeout_s:.1f} s; it may do so yet: see 'ctl rate get'"
        ) from None

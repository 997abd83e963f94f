"""Commands to one sensor, from the call that gives one to the first batch that shows it done.

::

    issue -> sent -> announced: an operating point carries its id -> measured: a batch at it is answered
                  -> refused by the sensor, or failed when its stream ends

A lasting command, for which a sensor may have to fetch something, outlives its stream: it is sent again on the next
one, and the sensor knows it by its id.
"""

import asyncio
import secrets
from dataclasses import dataclass

from edge_server.pipeline import ServedPoint
from latentwire.errors import CommandRefusedError
from latentwire.messages import CommandRefused, OperatingPointName, SetOperatingPoint


@dataclass(slots=True)
class Command:
    """``done`` becomes what was measured on the first batch at the operating point that carries it out.

    ``point`` is the sensor's id for that operating point, ``served`` its tables: None until it is announced.
    ``lasting`` is what a lasting command says, None for another.
    """

    id: int
    done: "asyncio.Future[Measured]"
    point: int | None = None
    served: ServedPoint | None = None
    lasting: SetOperatingPoint | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One answered batch: its operating point's id, images, their payload bits, how many were refined."""

    point: int
    images: int
    payload_bits: int
    refined: int


class CommandBook:
    """The commands that one sensor has not yet done."""

    def __init__(self) -> None:
        """Start empty."""
        self._commands: dict[int, Command] = {}
        # Not from 0: a sensor may yet announce what a server that ran before this one had commanded.
        self._last_id = secrets.randbits(48)

    def issue(self) -> Command:
        """A new command, to be sent to the sensor under its id."""
        self._last_id += 1
        command = Command(self._last_id, asyncio.get_running_loop().create_future())
        self._commands[command.id] = command
        return command

    def forget(self, command: Command) -> None:
        """Nobody waits for the command any more."""
        self._commands.pop(command.id, None)

    def announced(self, name: OperatingPointName, served: ServedPoint) -> None:
        """The sensor announced an operating point, maybe as its answer to a command."""
        command = self._commands.get(name.command_id)
        if command is not None:
            command.point, command.served = name.id, served

    def measured(self, batch: Measured) -> None:
        """A batch was answered: the commands that led to its operating point are done."""
        for command in self._commands.values():
            if command.point == batch.point and not command.done.done():
                command.done.set_result(batch)

    def refused(self, refusal: CommandRefused) -> None:
        """The sensor will not carry a command out."""
        self._fail(refusal.command_id, CommandRefusedError(f"the sensor refused: {refusal.error}: {refusal.message}"))

    def unanswered(self) -> list[SetOperatingPoint]:
        """The lasting commands that a sensor which is back may not have heard."""
        commands = self._commands.values()
        return [c.lasting for c in commands if c.lasting is not None and c.point is None and not c.done.done()]

    def stream_ended(self, sensor: str, for_good: bool) -> None:
        """The sensor can do none of them any more; but if it may come back, it can do the lasting ones yet."""
        for command in self._commands.values():
            if command.lasting is not None and not for_good:
                continue
            self._fail(
                command.id,
                CommandRefusedError(
                    f"sensor {sensor!r} ended its stream before it sent a batch at the new operating point; "
                    "its source may have ended: see 'ctl sensors' and try again"
                ),
            )

    def _fail(self, command_id: int, error: CommandRefusedError) -> None:
        command = self._commands.get(command_id)
        if command is not None and not command.done.done():
            command.done.set_exception(error)

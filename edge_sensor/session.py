"""One sensor session: what the event loop's tasks share. Only that loop's thread may touch it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_sensor.backlog import Backlog, MemoryBacklog, OnSent
from edge_sensor.coder import Tuning
from edge_sensor.encoder import Encoder
from edge_sensor.window import Window
from latentwire import __version__
from latentwire.bundle import Bundle
from latentwire.codec.coder import in_use
from latentwire.errors import CommandRefusedError
from latentwire.messages import CommandRefused, Hello, Limits, OperatingPointName
from latentwire.operating_point import OperatingPoint

_MAX_REFUSALS = 256

log = logging.getLogger("latentwire.sensor")


class Wakeup:
    """Lets tasks sleep until something they look at may have changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Let all waiting tasks look again."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait_for(self, predicate: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until ``predicate`` holds, or the timeout; return whether it holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not predicate():
                    await self._event.wait()
        except TimeoutError:
            return predicate()
        return True


@dataclass(frozen=True, slots=True)
class Turn:
    """A change of tuning that waits for the message boundary."""

    point: OperatingPoint
    encoder: Encoder
    command_id: int


class Session:
    """The state of a session: its window, its tuning, and what is still to be told to the server."""

    def __init__(
        self,
        session: str,
        name: str,
        bundle: Bundle,
        point: OperatingPoint,
        encoder: Encoder,
        window_images: int,
        images_per_message: int,
        sent: OnSent,
    ) -> None:
        """``sent`` is told of every message that enters the window."""
        self.id = session
        self.name = name
        self.bundle = bundle
        self.window = Window()
        self.wakeup = Wakeup()
        self.tuning = Tuning(point, _name(point, 1, 0), encoder)
        self.limits: Limits | None = None  # the server's; None until its first welcome
        self.refusals: deque[CommandRefused] = deque(maxlen=_MAX_REFUSALS)
        self.coded_all = False  # no more messages will be added
        self.stopping = False  # told to stop: what is captured is still coded and sent, if a server is there
        self._turn: Turn | None = None
        self._window_images = window_images
        self.images_per_message = images_per_message  # may be changed at any time; holds from the next message on
        self.backlog: Backlog = MemoryBacklog(self.window, self.room, sent)

    @property
    def complete(self) -> bool:
        """All is coded and answered."""
        return self.coded_all and not self.window.images and not self.backlog.waiting.images

    def hello(self) -> Hello:
        """The first message of a stream."""
        waiting = [name for name in self.window.operating_points() if name.id != self.tuning.name.id]
        return Hello(
            sensor=self.name,
            session=self.id,
            model_id=self.bundle.manifest.model_id,
            bundle_digest=self.bundle.digest,
            operating_points=(*waiting, self.tuning.name),
            next_sequence=self.window.first_sequence,
            software=f"latentwire {__version__}, {in_use()} coder",
            sensor_digest=self.bundle.sensor_digest,
        )

    def room(self) -> int:
        """Images that may be coded now without passing the server's limit on unanswered ones, or our own."""
        if self.limits is None:
            return 0
        return min(self._window_images, self.limits.max_unanswered_images) - self.window.images

    def message_images(self) -> int:
        """How many images the next message holds, at most."""
        wanted = self.images_per_message
        if self.limits is None:
            return wanted
        return min(wanted, self.limits.max_images_per_message, self.limits.max_unanswered_images)

    def turn(self, point: OperatingPoint, encoder: Encoder, command_id: int) -> None:
        """Change the tuning at the next message boundary."""
        if self._turn is not None:
            self.refuse(self._turn.command_id, CommandRefusedError("a later command took its place"))
        self._turn = Turn(point, encoder, command_id)
        self.wakeup.notify()

    @property
    def turning(self) -> bool:
        """A change of tuning waits for the message boundary."""
        return self._turn is not None

    @property
    def target(self) -> OperatingPoint:
        """The operating point that the latest accepted command leads to."""
        return self.tuning.point if self._turn is None else self._turn.point

    @property
    def target_encoder(self) -> Encoder:
        """The encoder that goes with ``target``."""
        return self.tuning.encoder if self._turn is None else self._turn.encoder

    def at_boundary(self) -> None:
        """No message is open: carry the change of tuning out, if there is one."""
        if self._turn is None:
            return
        turn, self._turn = self._turn, None
        name = _name(turn.point, self.tuning.name.id + 1, turn.command_id)
        self.tuning = Tuning(turn.point, name, turn.encoder)
        log.info("operating point %s %s, rate scale %g", name.variant, name.model, name.rate_scale)
        self.wakeup.notify()

    def end_coding(self) -> None:
        """No more messages will come; a command that waits can no longer be carried out."""
        if self._turn is not None:
            self.refuse(self._turn.command_id, CommandRefusedError("the sensor has coded its last image"))
            self._turn = None
        self.coded_all = True
        self.wakeup.notify()

    def refuse(self, command_id: int, error: Exception) -> None:
        """Tell the server that a command is not carried out."""
        self.refusals.append(CommandRefused(command_id, type(error).__name__, str(error)[:1024]))
        self.wakeup.notify()


def _name(point: OperatingPoint, number: int, command_id: int) -> OperatingPointName:
    return OperatingPointName(number, point.variant, point.model, point.rate_scale, point.digest, command_id)

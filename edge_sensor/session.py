"""One sensor session: what the event loop's tasks share. Only that loop's thread may touch it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from edge_sensor.backlog import Backlog, MemoryBacklog, OnSent
from edge_sensor.coder import Tuning
from edge_sensor.encoder import Encoder
from edge_sensor.window import Window
from latentwire import __version__
from latentwire.bundle import Bundle
from latentwire.codec.coder import in_use
from latentwire.errors import CommandRefusedError, LatentwireError
from latentwire.messages import CommandRefused, Hello, Limits, OperatingPointName, RateControlState
from latentwire.operating_point import OperatingPoint
from latentwire.wire import MAX_OPERATING_POINTS

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

    async def changed(self, timeout_s: float | None) -> None:
        """Wait until the next ``notify``, or the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()

    async def wait_for(self, predicate: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until ``predicate`` holds, or the timeout; return whether it holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not predicate():
                    await self._event.wait()
        except TimeoutError:
            return predicate()
        return True


@dataclass(slots=True)
class Trial:
    """A tuning that has yet to prove itself, and the one to go back to if it fails.

    ``first_id`` is its operating point's, 0 until it is in use; ``passed`` becomes None when an image coded with it
    is answered, or the error that it failed with.
    """

    passed: "asyncio.Future[None]"
    back: Tuning
    first_id: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A change of tuning that waits for the message boundary."""

    point: OperatingPoint
    encoder: Encoder
    command_id: int
    bundle: Bundle
    trial: Trial | None = None


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
        window: Window | None = None,
        first_point: int = 1,
    ) -> None:
        """``sent`` is told of every message that enters the window.

        ``window`` is an earlier process's, resumed; ``first_point`` the first id that it left for operating points.
        """
        self.id = session
        self.name = name
        self.window = window or Window()
        self.wakeup = Wakeup()
        self.tuning = Tuning(point, _name(point, bundle, first_point, 0), encoder, bundle)
        self.limits: Limits | None = None  # the server's; None until its first welcome
        self.refusals: deque[CommandRefused | RateControlState] = deque(maxlen=_MAX_REFUSALS)  # answers to commands
        self.coded_all = False  # no more messages will be added
        self.stopping = False  # told to stop: what is captured is still coded and sent, if a server is there
        self._turn: Turn | None = None
        self._trial: Trial | None = None
        self.window_images = window_images  # may be changed at any time
        self.images_per_message = images_per_message  # may be changed at any time; holds from the next message on
        self.backlog: Backlog = MemoryBacklog(self.window, self.room, sent)

    @property
    def complete(self) -> bool:
        """All is coded and answered."""
        return self.coded_all and not self.window.images and not self.backlog.waiting.images

    def hello(self) -> Hello:
        """The first message of a stream."""
        now = self.tuning.name
        here = self.bundle.sensor_digest
        waiting = [said(name, here) for name in self.window.operating_points() if name.id != now.id]
        del waiting[MAX_OPERATING_POINTS - 1 :]  # the others are announced before the first message that names them
        return Hello(
            sensor=self.name,
            session=self.id,
            model_id=self.bundle.manifest.model_id,
            bundle_digest=self.bundle.digest,
            operating_points=(*waiting, said(now, here)),
            next_sequence=self.window.first_sequence,
            software=f"latentwire {__version__}, {in_use()} coder",
            sensor_digest=here,
        )

    def room(self) -> int:
        """Images that may be coded now without passing the server's limit on unanswered ones, or our own."""
        if self.limits is None:
            return 0
        return min(self.window_images, self.limits.max_unanswered_images) - self.window.images

    def message_images(self) -> int:
        """How many images the next message holds, at most."""
        wanted = min(self.images_per_message, self.tuning.point.codec.most_images)
        if self.limits is None:
            return wanted
        return min(wanted, self.limits.max_images_per_message, self.limits.max_unanswered_images)

    @property
    def bundle(self) -> Bundle:
        """The bundle that images are coded with now."""
        return self.tuning.bundle

    def turn(self, point: OperatingPoint, encoder: Encoder, command_id: int, bundle: Bundle | None = None) -> None:
        """Change the tuning at the next message boundary; ``bundle`` is None when it stays as it is."""
        waiting = self._turn
        if waiting is not None and waiting.trial is not None and waiting.encoder is encoder and not command_id:
            self._turn = replace(waiting, point=point)  # the sensor's own change of rate, on top of the greater one
            return
        self._give_way()
        self._turn = Turn(point, encoder, command_id, bundle or self.target_bundle)
        self.wakeup.notify()

    def try_out(self, point: OperatingPoint, encoder: Encoder, command_id: int, bundle: Bundle) -> Trial:
        """Like ``turn``, but go back if the encoder fails on an image, or the server refuses one of its messages."""
        self._give_way()
        trial = Trial(asyncio.get_running_loop().create_future(), self.tuning)
        self._turn = Turn(point, encoder, command_id, bundle, trial)
        self.wakeup.notify()
        return trial

    def answered(self, point: OperatingPointName) -> None:
        """An image coded at this operating point has its result."""
        trial = self._trial
        if trial is not None and point.id >= trial.first_id:
            self._trial = None
            self.tuning = replace(self.tuning, on_trial=False)
            _resolve(trial.passed, None)

    def failed(self, error: LatentwireError, point: OperatingPointName | None = None) -> bool:
        """The tuning failed, or that of ``point`` did; go back to the one before if this one is on trial.

        False: there is none to go back to.
        """
        trial = self._trial
        if trial is None or (point is not None and point.id < trial.first_id):
            return False
        self._trial = None
        self._give_way()
        self._turn = Turn(trial.back.point, trial.back.encoder, 0, trial.back.bundle)
        log.warning("going back to bundle %s: %s", trial.back.bundle.manifest.model_id, error)
        _resolve(trial.passed, error)
        self.wakeup.notify()
        return True

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

    @property
    def target_bundle(self) -> Bundle:
        """The bundle that ``target`` is of."""
        return self.tuning.bundle if self._turn is None else self._turn.bundle

    def at_boundary(self) -> None:
        """No message is open: carry the change of tuning out, if there is one."""
        if self._turn is None:
            return
        turn, self._turn = self._turn, None
        name = _name(turn.point, turn.bundle, self.tuning.name.id + 1, turn.command_id)
        if turn.trial is not None:
            self._trial = turn.trial
            self._trial.first_id = name.id
        self.tuning = Tuning(turn.point, name, turn.encoder, turn.bundle, on_trial=self._trial is not None)
        log.info("operating point %s %s, rate scale %g", name.variant, name.model, name.rate_scale)
        self.wakeup.notify()

    def end_coding(self) -> None:
        """No more messages will come; a command that waits can no longer be carried out."""
        self._give_way("the sensor has coded its last image")
        self.coded_all = True
        self.wakeup.notify()

    def refuse(self, command_id: int, error: Exception) -> None:
        """Tell the server that a command is not carried out; 0 is none of its commands."""
        if not command_id:
            return
        self.refusals.append(CommandRefused(command_id, type(error).__name__, str(error)[:1024]))
        self.wakeup.notify()

    def say(self, state: RateControlState) -> None:
        """Tell the server who turns the knob."""
        self.refusals.append(state)
        self.wakeup.notify()

    def _give_way(self, why: str = "a later command took its place") -> None:
        """Drop a change of tuning that waits; whoever asked for it is told."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        error = CommandRefusedError(why)
        if turn.trial is not None:
            _resolve(turn.trial.passed, error)
        else:
            self.refuse(turn.command_id, error)


def said(name: OperatingPointName, sensor_digest: str) -> OperatingPointName:
    """An operating point as it is named on a stream whose hello has this ``sensor_digest``."""
    return replace(name, sensor_digest="") if name.sensor_digest == sensor_digest else name


def _name(point: OperatingPoint, bundle: Bundle, number: int, command_id: int) -> OperatingPointName:
    digest = bundle.sensor_digest
    return OperatingPointName(number, point.variant, point.model, point.rate_scale, point.digest, command_id, digest)


def _resolve(passed: "asyncio.Future[None]", error: LatentwireError | None) -> None:
    if passed.done():  # nobody waits any more
        return
    if error is None:
        passed.set_result(None)
    else:
        passed.set_exception(error)
        passed.exception()  # taken note of: it may be that nobody ever asks

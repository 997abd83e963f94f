"""The hostile process of ``benchmarks.malformed``: wrong messages at a given pace, and connections that say little."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import grpc

from benchmarks.malformed_parts import BREACHES, IMAGES, MESSAGES, Material, damage, wire
from latentwire import errors
from latentwire import messages as m
from latentwire.v1 import stream_pb2
from latentwire.wire import from_server_from_proto

METHOD = "/latentwire.v1.Sensors/Stream"
IN_FLIGHT = 32  # messages of a stream that wait for an answer
STREAM_MESSAGES = 2000  # then it is closed and another opened
WORKERS = 3  # streams of each of the two kinds at once
NAMES = 64
BREACH_SHARE = 0.1  # of the messages: each takes a stream of its own
ANSWER_TIMEOUT_S = 60.0
LORIS = 50  # connections of each of two kinds that are held open
OVERSIZE = "Received message larger than max"  # gRPC's own refusal: such a message is not read at all
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(slots=True)
class Attack:
    """What was sent, and how it was answered."""

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # by the refusal's name
    harmless: int = 0  # mutations that changed nothing that counts, answered as the message they were
    strange: Counter[str] = field(default_factory=Counter)  # answers that are neither
    loris_ended: int = 0  # silent connections that the server closed, each of which was made anew


class Pace:
    """Lets so many malformed messages through, at so many a second, while ``go`` is set; with ``tame``, right ones."""

    def __init__(self, messages: int, per_s: float, go: Event, tame: Event) -> None:
        """Start at once."""
        self._left = messages
        self._step_s = 1 / per_s
        self._go = go
        self._tame = tame
        self._due_s = 0.0

    async def turn(self) -> bool | None:
        """Wait until one more is due: whether it is to be a right one; None when there are no more."""
        while not self._go.is_set() and self._left > 0:
            await asyncio.sleep(0.02)
        tame = self._tame.is_set()
        if self._left <= 0:
            return None
        self._left -= not tame
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - 0.1) + self._step_s  # what a stall held back is not made up for
        if self._due_s > now_s:
            await asyncio.sleep(self._due_s - now_s)
        return tame


class Attacker:
    """Sends malformed messages of every kind."""

    def __init__(self, address: str, bundle: str, seed: int) -> None:
        """``address`` is HOST:PORT."""
        self._address = address
        self._material = Material(bundle)
        self._rng = random.Random(seed)
        self._labels: list[tuple[int, ...]] = []
        self._unsent = list(BREACHES)  # each kind once, so that none is left to chance
        self._attack = Attack()
        self._next = 0

    async def run(self, messages: int, per_s: float, go: Event, tame: Event) -> Attack:
        """Return when all are sent and answered."""
        breaches = max(1, round(BREACH_SHARE * messages))
        some = Pace(messages - breaches, (1 - BREACH_SHARE) * per_s, go, tame)
        others = Pace(breaches, BREACH_SHARE * per_s, go, tame)
        async with grpc.aio.insecure_channel(self._address) as channel:
            self._labels = await labels(channel, self._material, "hostile")
            held = [asyncio.create_task(self._hold(kind)) for kind in range(2) for _ in range(LORIS)]
            await asyncio.gather(
                *(self._damage(channel, f"hostile-{n}", some) for n in range(WORKERS)),
                *(self._breach(channel, others) for _ in range(WORKERS)),
            )
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
        return self._attack

    async def _damage(self, channel: grpc.aio.Channel, name: str, pace: Pace) -> None:
        """Batches that are refused one by one; streams go on."""
        first, more = 0, True
        while more:
            call = open_stream(channel)
            await call.write(wire(self._material.hello(name, "s", first)))
            assert _kind(await call.read()) == "welcome"
            slots = asyncio.Semaphore(IN_FLIGHT)
            sent: dict[int, int] = {}
            reading = asyncio.create_task(self._hear(call, sent, slots))
            for number in range(STREAM_MESSAGES):
                tame = await pace.turn()
                more = tame is not None
                if not more or reading.done():
                    break
                await asyncio.wait_for(slots.acquire(), ANSWER_TIMEOUT_S)
                right = self._material.batch(number, first)
                wrong = None if tame else damage(right, self._rng)
                sent[first] = number
                first += IMAGES
                self._attack.sent["" if wrong is None else wrong.kind] += 1
                await call.write(wire(right) if wrong is None else wrong.content)
            await call.done_writing()
            await asyncio.wait_for(reading, ANSWER_TIMEOUT_S)
            if sent:
                self._attack.strange["unanswered"] += len(sent)

    async def _hear(self, call: Any, sent: dict[int, int], slots: asyncio.Semaphore) -> None:
        while (content := await call.read()) is not grpc.aio.EOF:
            match answer := from_server_from_proto(stream_pb2.ServerMessage.FromString(content)):
                case m.BatchRefused():
                    sent.pop(answer.first_sequence)
                    self._attack.refused[answer.error] += 1
                case m.Results():
                    number = sent.pop(answer.first_sequence)
                    if answer.labels == self._labels[number % MESSAGES]:
                        self._attack.harmless += 1
                    else:
                        self._attack.strange["wrong result"] += 1
                case _:
                    self._attack.strange[type(answer).__name__] += 1
            slots.release()

    async def _breach(self, channel: grpc.aio.Channel, pace: Pace) -> None:
        """Messages that end their stream, each on one of its own."""
        names, weights = list(BREACHES), [weight for weight, _ in BREACHES.values()]
        while (tame := await pace.turn()) is not None:
            kind = "" if tame else self._unsent.pop() if self._unsent else self._rng.choices(names, weights)[0]
            name = f"breach-{self._rng.randrange(NAMES)}"
            self._next += 1000  # above what the session was answered: it is never asked for that again
            hello = self._material.hello(name, "s", self._next)
            self._attack.sent[kind] += 1
            call = open_stream(channel)
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # refused before all was said
                right = [wire(hello), wire(self._material.batch(0, hello.next_sequence))]
                for content in BREACHES[kind][1](self._material, hello, self._rng) if kind else right:
                    await call.write(content)
                await call.done_writing()
            try:
                await asyncio.wait_for(self._judge(kind, call), ANSWER_TIMEOUT_S)
            except TimeoutError:
                self._attack.strange[f"{kind}: no end in {ANSWER_TIMEOUT_S:g} s"] += 1

    async def _judge(self, kind: str, call: Any) -> None:
        """Every end of a stream is a refusal by name, or, of bytes that happen to be right, an answer and no error."""
        refused = False
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (content := await call.read()) is not grpc.aio.EOF:
                answer = from_server_from_proto(stream_pb2.ServerMessage.FromString(content))
                refused = refused or isinstance(answer, m.BatchRefused)
                if isinstance(answer, m.Results) and answer.labels != self._labels[0]:
                    self._attack.strange[f"{kind}: wrong result"] += 1
        code, details = await call.code(), await call.details() or ""
        named = errors.error_named(details)
        if code is grpc.StatusCode.OK and (not kind or kind.startswith(("mutated", "noise"))):
            if refused:
                self._attack.refused["BatchRefused"] += 1
            else:
                self._attack.harmless += 1
        elif named is not None and code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            self._attack.refused[named.error_name] += 1
        elif OVERSIZE in details or "newer stream" in details:
            self._attack.refused[code.name] += 1
        else:
            self._attack.strange[f"{kind}: {code.name} {details}"[:120]] += 1

    async def _hold(self, kind: int) -> None:
        """A connection that says nothing, or a byte of HTTP/2's preface now and then, for ever."""
        host, _, port = self._address.rpartition(":")
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    for place in range(len(HTTP2_PREFACE)):
                        if kind:
                            writer.write(HTTP2_PREFACE[place : place + 1])
                        with contextlib.suppress(TimeoutError):
                            while await asyncio.wait_for(reader.read(4096), 5):
                                pass
                            self._attack.loris_ended += 1
                            break
                finally:
                    writer.close()
            await asyncio.sleep(1)


async def labels(channel: grpc.aio.Channel, material: Material, name: str) -> list[tuple[int, ...]]:
    """What the server answers to each of the messages as they are."""
    call = open_stream(channel)
    await call.write(wire(material.hello(name, "truth")))
    assert _kind(await call.read()) == "welcome"
    found = []
    for number in range(MESSAGES):
        await call.write(wire(material.batch(number, number * IMAGES)))
        answer = from_server_from_proto(stream_pb2.ServerMessage.FromString(await call.read()))
        assert isinstance(answer, m.Results), answer
        found.append(answer.labels)
    await call.done_writing()
    return found


def open_stream(channel: grpc.aio.Channel) -> Any:
    """A stream of bytes, whatever they say."""
    return channel.stream_stream(METHOD)()


def _kind(content: bytes) -> str:
    return stream_pb2.ServerMessage.FromString(content).WhichOneof("message") or ""


def attack(
    address: str, bundle: str, seed: int, messages: int, per_s: float, go: Event, tame: Event, report: Any
) -> None:
    """The whole process; ``report`` is a queue that takes its Attack."""
    found = asyncio.run(Attacker(address, bundle, seed).run(messages, per_s, go, tame))
    found.harmless -= found.sent.pop("", 0)  # right ones, each answered as it should be
    report.put(found)

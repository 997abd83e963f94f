"""The process that loads a server: many connections, either as fast as answers come or by the clock.

Latency in a closed loop is from sending; by the clock it is from the moment at which a request was due, so that a
server which stalls is not spared the requests that the stall held back.
"""

import multiprocessing
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.server.peers import Peer
from latentwire.errors import LatentwireError

JOIN_AT_ONCE = 32
TIMEOUT_S = 60.0  # without a single answer
RECEIVE_BYTES = 1 << 16
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    ``peers`` are the connections, the first ``active`` of which send ``requests`` prepared messages in turn, each
    ``in_flight`` at once, or one every ``every_s``, for ``seconds`` after ``warm_s`` that do not count.
    """

    address: tuple[str, int]
    peers: Sequence[Peer]
    requests: int
    active: int
    seconds: float
    warm_s: float = 1.0
    in_flight: int = 1
    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it: answers that came in ``seconds``, their latencies (n,) seconds, and the first answer to each
    prepared request by its number."""

    answers: int
    seconds: float
    latency_s: NDArray[np.float64]
    first: dict[int, bytes]

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return float(np.percentile(self.latency_s, percent)) * 1e3


@dataclass(slots=True)
class _Connection:
    peer: Peer
    socket: socket.socket
    next: int  # request
    asked: deque[tuple[int, float]] = field(default_factory=deque)  # request, and the time its latency is from


class LoadProcess:
    """A load in a process of its own: it joins, says so, and sends when told to."""

    def __init__(self, load: Load, core: int) -> None:
        """Start it on that core and wait until every connection has joined."""
        context = multiprocessing.get_context("forkserver")  # it holds no threads, and what it imports is imported once
        context.set_forkserver_preload([__name__])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_in_process, args=(theirs, load, core), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def start(self) -> None:
        """Begin to send."""
        self._pipe.send(None)

    def wait(self) -> None:
        """Wait until what counts begins; called again, until it has ended."""
        self._receive()

    def result(self) -> Loaded:
        """What came of it; ends the process."""
        result = self._receive()
        assert isinstance(result, Loaded)
        self._process.join()
        self._pipe.close()
        return result

    def _receive(self) -> Any:
        try:
            said = self._pipe.recv()
        except EOFError:
            raise LatentwireError("the load generator died") from None
        if isinstance(said, LatentwireError):
            raise said
        return said


def _in_process(pipe: Any, load: Load, core: int) -> None:
    os.sched_setaffinity(0, {core})
    try:
        generator = _Generator(load)
        generator.join()
        pipe.send("joined")
        pipe.recv()
        pipe.send(generator.run(lambda moment: pipe.send(moment)))
    except LatentwireError as error:
        pipe.send(error)
    except OSError as error:
        pipe.send(LatentwireError(f"the connection failed: {error}"))


class _Generator:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._poll = select.epoll()
        self._by_socket: dict[int, _Connection] = {}
        self._latencies: list[float] = []
        self._first: dict[int, bytes] = {}

    def join(self) -> None:
        peers = self._load.peers
        for start in range(0, len(peers), JOIN_AT_ONCE):
            some = [self._connect(peer, start + i) for i, peer in enumerate(peers[start : start + JOIN_AT_ONCE])]
            deadline = time.monotonic() + TIMEOUT_S
            while not all(connection.peer.joined for connection in some):
                self._turn(1.0)
                if time.monotonic() > deadline:
                    raise LatentwireError("a stream was not welcomed in time")

    def run(self, say: Callable[[str], None]) -> Loaded:
        """Send until the time is over, and an answer has come; says when what counts begins and ends."""
        active = list(self._by_socket.values())[: self._load.active]
        now = time.perf_counter()
        begin, end = now + self._load.warm_s, now + self._load.warm_s + self._load.seconds
        clock = None if self._load.every_s is None else _Clock(active, self._load.every_s, now)
        if clock is None:
            for connection in active:
                for _ in range(self._load.in_flight):
                    self._ask(connection, now)
        self._until(begin, clock)
        say("counting")
        self._latencies.clear()
        began = time.perf_counter()
        self._until(end, clock)
        seconds = time.perf_counter() - began
        say("counted")
        return Loaded(len(self._latencies), seconds, np.array(self._latencies), self._first)

    def _until(self, end: float, clock: "_Clock | None") -> None:
        quiet_since = time.perf_counter()
        while (now := time.perf_counter()) < end or not self._latencies:
            wait = max(0.0, end - now) or POLL_S
            if clock is not None:
                for connection, due in clock.due(now):
                    self._ask(connection, due)
                wait = min(wait, max(0.0, clock.next_due - time.perf_counter()))
            if self._turn(wait):
                quiet_since = now
            elif now - quiet_since > TIMEOUT_S:
                raise LatentwireError(f"no answer came within {TIMEOUT_S:g} s")

    def _connect(self, peer: Peer, place: int) -> _Connection:
        raw = socket.create_connection(self._load.address, timeout=TIMEOUT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(peer, raw, place % self._load.requests)
        self._by_socket[raw.fileno()] = connection
        self._poll.register(raw.fileno(), select.EPOLLIN)
        raw.sendall(peer.opening())
        return connection

    def _ask(self, connection: _Connection, since: float) -> None:
        connection.asked.append((connection.next, since))
        connection.socket.sendall(connection.peer.request(connection.next))
        connection.next = (connection.next + 1) % self._load.requests

    def _turn(self, wait_s: float) -> int:
        """Take what sockets have; how many answers there were."""
        answers = 0
        for number, _ in self._poll.poll(wait_s):
            connection = self._by_socket[number]
            received = connection.socket.recv(RECEIVE_BYTES)
            if not received:
                raise LatentwireError("the server closed a connection")
            heard = connection.peer.feed(received)
            if heard.reply:
                connection.socket.sendall(heard.reply)
            if heard.answers:
                answers += len(heard.answers)
                self._take(connection, heard.answers)
        return answers

    def _take(self, connection: _Connection, answers: list[bytes]) -> None:
        now = time.perf_counter()
        for answer in answers:
            request, since = connection.asked.popleft()
            self._latencies.append(now - since)
            self._first.setdefault(request, answer)
            if self._load.every_s is None:
                self._ask(connection, now)


class _Clock:
    """Whose turn it is when each connection sends once in ``every_s``, spread evenly."""

    def __init__(self, connections: Sequence[_Connection], every_s: float, start: float) -> None:
        self._connections = connections
        self._step = every_s / len(connections)
        self._start = start
        self._sent = 0

    @property
    def next_due(self) -> float:
        return self._start + self._sent * self._step

    def due(self, now: float) -> list[tuple[_Connection, float]]:
        found = []
        while self.next_due <= now:
            found.append((self._connections[self._sent % len(self._connections)], self.next_due))
            self._sent += 1
        return found

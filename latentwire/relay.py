"""A TCP relay that counts what crosses it, and may be thin: wire bits are measured at the socket."""

import asyncio
import bisect
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

_CHUNK = 1 << 16
_THIN_CHUNK = 128  # bytes: the packets of a thin relay
_THIN_BUFFER = 2048  # a thin relay must not hold what its link has not carried, or nobody sees the queue


class CountingRelay:
    """Forwards a free loopback port to ``target`` (host, port) from a thread of its own, while in its ``with`` block.

    ``up_bytes_at(t)`` and ``down_bytes_at(t)`` tell how many bytes had come from the client, and from the server, by
    time t (``time.monotonic`` seconds, which all processes of a machine share). With ``up_bits_per_s``, which may be
    changed at any time, what comes from the client is let through no faster.
    """

    def __init__(self, host: str, port: int, up_bits_per_s: float | None = None) -> None:
        self.up_bits_per_s = up_bits_per_s
        self._target = host, port
        self._up = _Count()
        self._down = _Count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self.port = 0

    def __enter__(self) -> "CountingRelay":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def up_bytes_at(self, time_s: float) -> int:
        """Bytes that the client had sent by then."""
        return self._up.at(time_s)

    def down_bytes_at(self, time_s: float) -> int:
        """Bytes that the server had sent by then."""
        return self._down.at(time_s)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        thin = self.up_bits_per_s is not None
        if thin:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _THIN_BUFFER)
        limit = _THIN_CHUNK if thin else _CHUNK
        server = await asyncio.start_server(self._connect, sock=listening, limit=limit)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # one more turn of the loop, in which aborted connections let go of their sockets

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        try:
            up = _forward(reader, far_writer, self._up, lambda: self.up_bits_per_s)
            await asyncio.gather(up, _forward(far_reader, writer, self._down), return_exceptions=True)
        except asyncio.CancelledError:  # the relay ends: what is under way is not delivered
            writer.transport.abort()
            far_writer.transport.abort()


class _Count:
    """A running total with the time of each rise."""

    def __init__(self) -> None:
        self._times: list[float] = [float("-inf")]
        self._totals: list[int] = [0]

    def add(self, count: int) -> None:
        self._totals.append(self._totals[-1] + count)
        self._times.append(time.monotonic())

    def at(self, time_s: float) -> int:
        return self._totals[bisect.bisect_right(self._times, time_s) - 1]


async def _forward(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    count: _Count,
    bits_per_s: Callable[[], float | None] = lambda: None,
) -> None:
    try:
        while data := await reader.read(_CHUNK if bits_per_s() is None else _THIN_CHUNK):
            if rate := bits_per_s():
                await asyncio.sleep(8 * len(data) / rate)
            count.add(len(data))
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # either side may go at any time; the other is told below
    finally:
        writer.close()

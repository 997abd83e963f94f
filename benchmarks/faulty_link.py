"""A TCP relay that fails on demand: cut aloud, gone silent, reset in the middle of a message."""

import asyncio
import socket
import struct

_CHUNK = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: the peer gets a reset, whatever is under way is gone


class FaultyLink:
    """Forwards a free loopback port to ``target``, another; only the event loop that entered it may use it."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()  # not cut
        self._open.set()
        self._heard = asyncio.Event()  # not silent
        self._heard.set()
        self._break_next = False

    async def __aenter__(self) -> "FaultyLink":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._heard.set()
        self._reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # one more turn, in which aborted connections let go of their sockets

    async def cut(self, for_s: float) -> None:
        """Reset all that is open, and take nothing for a while."""
        self._open.clear()
        self._reset()
        try:
            await asyncio.sleep(for_s)
        finally:
            self._open.set()

    async def silence(self, for_s: float) -> None:
        """Let nothing through for a while, and say nothing of it."""
        self._heard.clear()
        try:
            await asyncio.sleep(for_s)
        finally:
            self._heard.set()

    async def break_message(self) -> None:
        """Reset all when half of what the sensor writes next has gone through."""
        self._break_next = True
        while self._break_next:
            await asyncio.sleep(0.01)

    def _reset(self) -> None:
        for writer in self._writers:
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:  # the peer may have closed it already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self._open.is_set():
                raise ConnectionError
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        up = asyncio.create_task(self._pump(reader, far_writer, up=True))
        down = asyncio.create_task(self._pump(far_reader, writer, up=False))
        try:
            await asyncio.gather(up, down)
        finally:
            up.cancel()
            down.cancel()
            self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._heard.wait()
                if up and self._break_next and len(data) > 1:
                    writer.write(data[: len(data) // 2])
                    await asyncio.sleep(0.01)  # it goes out before the reset
                    self._reset()
                    self._break_next = False
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # either side may go at any time; the other is told below
        finally:
            writer.transport.abort()

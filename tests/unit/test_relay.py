"""The counting relay: every byte crosses, and every byte is counted, each way."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from latentwire.relay import CountingRelay

FACTOR = 3  # bytes that the far side answers for each it gets


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers every byte ``FACTOR`` times; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data * FACTOR)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def exchange(port: int, content: bytes) -> bytes:
    """Send ``content`` and read the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        return talk(connection, content)


def talk(connection: socket.socket, content: bytes) -> bytes:
    sender = threading.Thread(target=connection.sendall, args=(content,))
    sender.start()
    answer = bytearray()
    while len(answer) < FACTOR * len(content):
        answer += connection.recv(1 << 16)
    sender.join()
    return bytes(answer)


@pytest.mark.parametrize("size", [1, 1000, 1_000_003])
def test_bytes_are_counted_exactly_each_way(echo: int, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    with CountingRelay("127.0.0.1", echo) as relay:
        answer = exchange(relay.port, content)
        now = time.monotonic()
        assert len(answer) == FACTOR * size
        assert sum(answer) == FACTOR * sum(content)
        assert relay.up_bytes_at(now) == size
        assert relay.down_bytes_at(now) == FACTOR * size


def test_a_count_is_of_what_had_crossed_by_then(echo: int) -> None:
    with (
        CountingRelay("127.0.0.1", echo) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=10) as connection,
    ):
        before = time.monotonic()
        times = []
        for size in (10, 200, 3000):
            talk(connection, b"x" * size)
            times.append(time.monotonic())
        assert relay.up_bytes_at(before) == 0
        assert [relay.up_bytes_at(t) for t in times] == [10, 210, 3210]
        assert [relay.down_bytes_at(t) for t in times] == [30, 630, 9630]
        assert relay.up_bytes_at(float("inf")) == 3210
        assert relay.up_bytes_at(float("-inf")) == 0


def test_connections_count_together(echo: int) -> None:
    with CountingRelay("127.0.0.1", echo) as relay:
        threads = [threading.Thread(target=exchange, args=(relay.port, b"y" * 5000)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert relay.up_bytes_at(time.monotonic()) == 8 * 5000
        assert relay.down_bytes_at(time.monotonic()) == 8 * 5000 * FACTOR


def test_nobody_behind_it_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        CountingRelay("127.0.0.1", port) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=10) as connection,
    ):
        assert connection.recv(1) == b""
        assert relay.down_bytes_at(time.monotonic()) == 0


def test_it_ends_with_a_connection_still_open(echo: int) -> None:
    relay = CountingRelay("127.0.0.1", echo)
    with relay:
        connection = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
        talk(connection, b"z")
    with connection:
        assert connection.recv(1) == b""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", relay.port), timeout=1)


def test_a_thin_relay_lets_no_more_through(echo: int) -> None:
    with CountingRelay("127.0.0.1", echo, up_bits_per_s=80_000.0) as relay:
        started_s = time.monotonic()
        assert exchange(relay.port, b"x" * 5000) == b"x" * 5000 * FACTOR
        assert time.monotonic() - started_s >= 0.45, "40,000 bits at 80,000 a second"
        assert relay.up_bytes_at(started_s + 0.2) <= 128 + 0.2 * 80_000 / 8, "counted as they cross"
        relay.up_bits_per_s = 1e9
        assert exchange(relay.port, b"y" * 5000) == b"y" * 5000 * FACTOR

"""What the kernel tells of a connection, on real sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from edge_sensor.rate_control_socket import HEADER_BYTES, StreamSocket


@pytest.fixture
def pair() -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """A server's port, a client connected to it, and the server's end."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        end, _ = server.accept()
        yield port, client, stack.enter_context(end)


def test_bytes_are_counted_with_their_headers(pair: tuple[int, socket.socket, socket.socket]) -> None:
    port, client, end = pair
    found = StreamSocket.find(f"127.0.0.1:{port}")
    assert found is not None
    before = found.read()
    assert before is not None
    client.sendall(b"x" * 1000)
    assert len(end.recv(2000)) == 1000
    after = found.read()
    assert after is not None
    sent = after.sent_bits - before.sent_bits
    assert 8 * (1000 + HEADER_BYTES) <= sent <= 8 * (1000 + 3 * HEADER_BYTES)
    assert min(after.segment_bytes, after.received_segment_bytes) >= 500
    assert 0 < after.round_trip_s < 5
    found.close()
    client.sendall(b"still open")
    assert end.recv(100) == b"still open"


def test_nothing_is_read_where_it_is_not_clear_which_connection_it_is(
    pair: tuple[int, socket.socket, socket.socket],
) -> None:
    port, _, _ = pair
    with socket.create_connection(("127.0.0.1", port)):
        assert StreamSocket.find(f"127.0.0.1:{port}") is None
    assert StreamSocket.find("127.0.0.1:1") is None

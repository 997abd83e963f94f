"""Answers Prometheus over HTTP: what a process counts, asked of its event loop when it is scraped."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from latentwire.errors import ListenError

_PATIENCE_S = 2.0  # for the event loop to answer a scrape

Gather = Callable[[], Iterable[Metric]]


async def serve_scrapes(listen: str, gather: Gather, ready: Callable[[int], None] = lambda port: None) -> None:
    """Answer at ``HOST:PORT`` until cancelled; ``gather`` is called in the event loop at every scrape.

    ``ready`` is told the port. Raises ListenError.
    """
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    registry.register(_LoopCollector(gather, asyncio.get_running_loop()))
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise ListenError(f"metrics cannot be served at {listen} ({error.strerror}); give another --metrics") from None
    try:
        ready(server.server_port)
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


class _LoopCollector(Collector):
    """Asks the event loop, whose numbers these are: no lock is taken where they are counted."""

    def __init__(self, gather: Gather, loop: asyncio.AbstractEventLoop) -> None:
        self._gather = gather
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """Called in the HTTP server's thread."""
        yield from asyncio.run_coroutine_threadsafe(_called(self._gather), self._loop).result(_PATIENCE_S)

    def describe(self) -> list[Metric]:
        """Nothing: or registering would collect."""
        return []


async def _called(gather: Gather) -> list[Metric]:
    return list(gather())

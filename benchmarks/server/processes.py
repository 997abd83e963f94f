"""Servers as processes of their own on chosen cores, with what they take: time on the processor, and memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.server.missing import needed
from latentwire.errors import LatentwireError

STOP_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A server that listens at ``address``: process ``pid`` and all that it started."""

    address: tuple[str, int]
    pid: int

    def processor_s(self) -> float:
        """Seconds on the processor so far, of all its processes."""
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(each.user + each.system for each in times))

    def memory_bytes(self) -> int:
        """Resident memory that is its own, of all its processes."""
        return sum(int(process.memory_full_info().uss) for process in self._processes())

    def _processes(self) -> list[Any]:
        server = needed("psutil").Process(self.pid)
        return [server, *server.children(recursive=True)]


@contextmanager
def serving(command: Sequence[str], cores: set[int]) -> Iterator[Served]:
    """Run ``python -m COMMAND`` on those cores until the end; it says ``listening on HOST:PORT`` when it is ready.

    LatentwireError if it does not.
    """
    was = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # which the process inherits
    one_thread_each = {"OMP_NUM_THREADS": str(len(cores)), "ORT_DISABLE_TELEMETRY": "1"}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            env=os.environ | one_thread_each,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, was)
    try:
        yield Served(_address(process, command[0]), process.pid)
    finally:
        _stop(process)


def _address(process: subprocess.Popen[bytes], name: str) -> tuple[str, int]:
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        said = process.stdout.readline().decode()
        if said.startswith("listening on "):
            host, _, port = said.split()[-1].rpartition(":")
            return host, int(port)
        if not said:
            break
    raise LatentwireError(f"{name} did not start (status {process.poll()}); its message is above")


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever it started and left
    process.wait()
    process.stdout.close()

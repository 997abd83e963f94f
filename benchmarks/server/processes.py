"""Servers as processes of their own on chosen cores, with what they take: time on the processor, and memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from latentwire.errors import LatentwireError

STOP_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Served:
    """A server that listens at ``address``: process ``pid`` and all that it started."""

    address: tuple[str, int]
    pid: int

    def processor_s(self) -> float:
        """Seconds on the processor so far, of all its processes."""
        return sum(_ticks(pid) for pid in self._pids()) / _TICKS_PER_S

    def memory_bytes(self) -> int:
        """Resident memory that is its own, of all its processes."""
        return sum(_private_bytes(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        """It leads a session of its own, which its children stay in."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it has ended
                    continue
                if int(fields[3]) == self.pid:
                    found.append(int(entry.name))
        return found


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


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))

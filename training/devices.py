"""A training on several devices: Lightning Fabric starts a process for each and joins them."""

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from latentwire.errors import LatentwireError, StoppedError, TrainingError
from training.progress import STOP_SIGNALS

Result = TypeVar("Result")
logging.getLogger("lightning_fabric.utilities").setLevel(logging.WARNING)  # it greets at every start
logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells of every process it ends


def on_devices(devices: int, device: str, job: Callable[..., Result], *arguments: Any) -> Result:
    """``job(*arguments)``, in one process for each of ``devices``; what process 0 returned.

    ``device`` is the kind: "cpu", "cuda", or "auto" for GPUs where there are any. One device is this process, and
    needs no library. ``job`` and its arguments are pickled; its result is a path or another plain value. Ctrl-C and
    SIGTERM reach all processes.

    Raises what ``job`` raised if that is an error of ours; else, and for devices that are not there, TrainingError.
    """
    if devices == 1:
        return job(*arguments)
    kind = _check(devices, device)
    if find_spec("lightning_fabric") is None:
        raise TrainingError("several devices need lightning-fabric: pip install 'latentwire[training]', or --devices 1")
    # imported only here: one device, and machines without the library, get on without it
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=kind, devices=devices, strategy="ddp_spawn")
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        with _signals_to_children() as asked:
            # in partials, for Fabric looks into arguments and refuses frozen dataclasses
            work = partial(_work, errors=errors, job=partial(job, *arguments))
            result: Result = fabric.launch(work)
    except (ProcessRaisedException, ProcessExitedException) as error:
        if not errors.empty():
            raise errors.get() from None
        if asked:  # a process that does not train yet ends on a signal
            message = "stopped before training had begun: the same command with --resume goes on from what is saved"
            raise StoppedError(message) from None
        raise TrainingError(f"a training process failed: {_last_line(error)}") from error
    return result


def _check(devices: int, device: str) -> str:
    kind = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if devices < 1 or kind not in ("cpu", "cuda"):
        raise TrainingError(f"devices must be one or more of cpu or cuda, not {devices} of {device!r}")
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise TrainingError(f"{devices} GPUs were asked for and {torch.cuda.device_count()} are here: give --devices")
    return kind


def _work(fabric: Any, errors: Any, job: Callable[[], Result]) -> Result:
    """In each process: the job; an error of ours also goes to the process that waits for all."""
    try:
        return job()
    except LatentwireError as error:
        errors.put(error)
        raise


@contextmanager
def _signals_to_children() -> Iterator[list[int]]:
    """Hand the first Ctrl-C or SIGTERM on to the children as SIGTERM, on which they save and stop; end them on the
    second; gives a list of the signals that came."""
    asked: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        if not (asked and number == signal.SIGALRM):  # alarms come again and again
            for child in multiprocessing.active_children():
                child.kill() if asked else child.terminate()
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield asked
        return
    before = {number: signal.signal(number, hand_on) for number in STOP_SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

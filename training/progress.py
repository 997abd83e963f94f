"""What a training run shows while it runs, the log it keeps, and how it is asked to stop."""

import csv
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from latentwire.errors import TrainingError
from training.parallel import processes, rank

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)  # the last for whoever sets an alarm


class Progress:
    """A bar on a terminal and a line an epoch anywhere; each epoch's figures also go to the CSV file ``log``.

    Of several processes that train together the first alone shows and writes.
    """

    def __init__(
        self, title: str, epochs: int, steps_per_epoch: int, log: Path, console: Console | None = None
    ) -> None:
        self._shown = rank() == 0
        self._console = console or Console(stderr=True, highlight=False, quiet=not self._shown)
        self._epochs, self._steps, self._log = epochs, steps_per_epoch, log
        self._bar = Bar(
            TextColumn(f"{title}: {{task.description}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._shown and self._console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=epochs * steps_per_epoch)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bar away."""
        self._bar.stop()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """``step`` steps of the epoch after ``epoch`` whole ones are done; ``loss`` is their mean."""
        text = f"epoch {epoch + 1}/{self._epochs} loss {loss:.3f}"
        self._bar.update(self._task, completed=epoch * self._steps + step, description=text)

    def epoch(self, row: dict[str, float], history: Sequence[dict[str, float]]) -> None:
        """Print an epoch's figures and write the log anew; TrainingError if it cannot be written."""
        figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self._bar.update(self._task, completed=len(history) * self._steps)
        self._console.print(f"epoch {row['epoch']:.0f}/{self._epochs}  {figures}", soft_wrap=True)
        if self._shown:
            write_log(self._log, history)


def write_log(path: Path, history: Sequence[dict[str, float]]) -> None:
    """The history as CSV, whole or not at all; TrainingError if it cannot be written.

    Written anew each epoch, so that a resumed run's log has each epoch once.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", newline="") as file:
            names = dict.fromkeys(name for row in history for name in row)  # phases differ in what they measure
            writer = csv.DictWriter(file, fieldnames=list(names))
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
        os.replace(temporary, path)
    except OSError as error:
        raise TrainingError(f"the log {path} cannot be written ({error.strerror}): free some space") from error


class StopSignal:
    """Turns the first Ctrl-C, SIGTERM or alarm into ``requested``, so that the loop stops between steps and saves.

    A second one acts as ever; but not in one of several processes, which the process that waits for them ends. Outside
    the main thread, where signals cannot be caught, nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Catch the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give the signals back."""
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if processes() == 1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

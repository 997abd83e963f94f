"""Progress on standard error: a live view on a terminal, else a line now and then, a record where logs are JSON."""

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_sensor.ledger import SensorReport
from latentwire.logs import are_json

_LIVE_INTERVAL_S = 0.25
_LINE_INTERVAL_S = 5.0

log = logging.getLogger("latentwire.sensor")


class Display:
    """Shows reports from a thread of its own until it is closed.

    ``report`` gives the counts as they are now, ``tuning`` the operating point in words. Both are called in
    that thread.
    """

    def __init__(self, title: str, report: Callable[[], SensorReport], tuning: Callable[[], str]) -> None:
        self._title = title
        self._report = report
        self._tuning = tuning
        self._last = report()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="latentwire-display", daemon=True)

    def __enter__(self) -> "Display":
        """Begin to show."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state and end."""
        self._stopped.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        console = Console(stderr=True)
        if console.is_terminal and not are_json():
            with Live(self._table(), console=console, auto_refresh=False, redirect_stdout=False) as live:
                while not self._stopped.wait(_LIVE_INTERVAL_S):
                    live.update(self._table(), refresh=True)
                live.update(self._table(), refresh=True)
            return
        while not self._stopped.wait(_LINE_INTERVAL_S):
            self._print_line()
        self._print_line()

    def _print_line(self) -> None:
        if are_json():
            log.info("progress", extra={"tuning": self._tuning(), **asdict(self._report())})
            return
        line = ", ".join(f"{name} {value}" for name, value in self._facts())
        print(f"{self._title}: {line}", file=sys.stderr, flush=True)

    def _table(self) -> Table:
        table = Table(title=Text(self._title), show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(min_width=48)
        for name, value in self._facts():
            table.add_row(name, Text(value))  # as it is: a class may be called [bold]
        return table

    def _facts(self) -> list[tuple[str, str]]:
        """What is shown, as (name, value)."""
        last, now = self._last, self._report()
        seconds = now.elapsed_s - last.elapsed_s
        rate = (now.images_answered - last.images_answered) / seconds if seconds > 0 else 0.0
        if seconds >= 1:
            self._last = now
        facts = [
            ("images", f"{now.images_answered} answered of {now.images_sent} ({rate:.0f} a second)"),
            ("tuning", self._tuning()),
        ]
        if now.payload_bits is not None:
            refined = 100 * (now.share_refined or 0)
            facts.append(("bits an image", f"{now.payload_bits:.1f} payload, {now.grpc_bits:.1f} gRPC"))
            facts.append(("refined", f"{refined:.0f} %"))
        if now.accuracy is not None:
            facts.append(("accuracy", f"{100 * now.accuracy:.2f} % of {now.images_with_truth}"))
        if now.latency_p50_ms is not None:
            facts.append(("latency", f"{now.latency_p50_ms:.1f} ms median, {now.latency_p95_ms:.1f} ms p95"))
        if now.dropped:
            facts.append(("dropped", " ".join(f"{reason} {n}" for reason, n in sorted(now.dropped.items()))))
        if now.reconnects:
            facts.append(("reconnects", str(now.reconnects)))
        if now.latest:
            facts.append(("latest", ", ".join(now.latest)))
        return facts

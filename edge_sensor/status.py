"""What a sensor tells an operator on its machine, over a Unix socket: one JSON object to whoever connects.

The socket lies in a run folder that the sensor and the operator's command find by themselves. A socket rather than a
file: it answers for a sensor that is alive, wears no flash, and shows the moment at which it is asked.
"""

import asyncio
import json
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_sensor.vitals import Vitals

_PATIENCE_S = 3.0  # for one sensor's answer
_MOST_BYTES = 1 << 20
_SUFFIX = ".sensor"

log = logging.getLogger("latentwire.sensor")


def run_folders(given: Path | None = None) -> list[Path]:
    """Where sockets may lie, best first: only ``given`` if it is, else the user's run folder, the machine's, and /tmp.

    A systemd service with ``RuntimeDirectory=latentwire`` may write to the second.
    """
    if given is not None:
        return [given]
    own = os.environ.get("XDG_RUNTIME_DIR")
    folders = [Path(own, "latentwire")] if own else []
    return [*folders, Path("/run/latentwire"), Path(f"/tmp/latentwire-{os.getuid()}")]


async def serve_status(folder: Path | None, gather: Callable[[], Vitals]) -> None:
    """Answer until cancelled; ``gather`` is called in the event loop.

    Where no socket can be made, that is logged, and the sensor does without.
    """
    path = _place(run_folders(folder))
    if path is None:
        await asyncio.Event().wait()
        return

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                writer.write(json.dumps(asdict(gather()), allow_nan=False).encode())
                await writer.drain()
        writer.close()

    # Under a hidden name until it listens: a sweep takes a socket at which nobody listens for a dead one.
    hidden = path.with_name(f".{path.name}")
    try:
        server = await asyncio.start_unix_server(answer, hidden)
        hidden.rename(path)
        async with server:
            await server.serve_forever()
    except OSError as error:
        log.warning("no status at %s (%s): the sensor does without; see --run-dir", path, error)
        await asyncio.Event().wait()
    finally:
        for made in (hidden, path):
            made.unlink(missing_ok=True)


def running(folder: Path | None = None) -> list[dict[str, Any]]:
    """The vitals of every sensor that answers, by name; what dead ones left behind is removed."""
    found = [_ask(path) for path in _sockets(run_folders(folder))]
    return sorted((vitals for vitals in found if vitals is not None), key=lambda vitals: str(vitals["sensor"]))


def in_words(vitals: Mapping[str, Any]) -> str:
    """One sensor's vitals, as JSON gave them, for people: a line a fact."""
    get, report = vitals.get, vitals.get("report") or {}
    link = f"connected for {_age(get('connected_s'))}" if get("connected") else "not connected"
    facts = {
        "server": f"{get('server')}, {link}, {report.get('reconnects')} reconnects",
        "source": f"{get('source')}, {_source(vitals)}",
        "model": f"{get('model_id')}, {get('variant')}, {get('model')}, rate scale {get('rate_scale')}",
        "images": f"{get('images_captured')} captured, {report.get('images_sent')} coded, "
        f"{report.get('images_answered')} answered",
        "waiting": f"{get('queue_images')} to be coded, {get('backlog_images')} for the link "
        f"({get('backlog_bytes')} bytes), {get('unanswered_images')} for an answer",
        "dropped": _counts(report.get("dropped")),
        "skipped": _counts(get("images_skipped")),
    }
    if report.get("payload_bits") is not None:
        facts["bits an image"] = f"{report['payload_bits']:.1f} payload, {report['grpc_bits']:.1f} gRPC"
    if get("encode_images"):
        facts["encoder"] = f"{1000 * vitals['encode_seconds'] / vitals['encode_images']:.2f} ms an image"
    if report.get("latency_p50_ms") is not None:
        facts["latency"] = f"{report['latency_p50_ms']:.0f} ms median, {report['latency_p95_ms']:.0f} ms p95"
    head = f"{get('sensor')} (process {get('pid')}, {get('version')}, up {_age(report.get('elapsed_s'))})"
    lines = [head, *(f"  {name:14}{value}" for name, value in facts.items())]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _source(vitals: Mapping[str, Any]) -> str:
    if vitals.get("source_lost"):
        return f"away, lost {vitals.get('source_losses')} times"
    silent_s = vitals.get("source_silent_s")
    latest = "no image yet" if silent_s is None else f"latest image {_age(silent_s)} ago"
    return f"{latest}, lost {vitals.get('source_losses')} times"


def _counts(found: Mapping[str, int] | None) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in sorted((found or {}).items())) or "none"


def _age(seconds: float | None) -> str:
    """Seconds in the largest unit that gives one or more."""
    if seconds is None:
        return "never"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _place(folders: Sequence[Path]) -> Path | None:
    """A name for a new socket in the first folder that is ours to use; dead ones there are removed."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # In /tmp anybody may have made a folder of that name.
            if folder.stat().st_uid in (os.getuid(), 0) and os.access(folder, os.W_OK | os.X_OK):
                for path in _sockets([folder]):
                    if (link := _connect(path)) is not None:
                        link.close()
                return folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
    log.warning("no status: none of %s can be written to; see --run-dir", ", ".join(map(str, folders)))
    return None


def _sockets(folders: Sequence[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.glob(f"[!.]*{_SUFFIX}")]


def _connect(path: Path) -> socket.socket | None:
    """A connection; None if there is no sensor, and then the socket is removed."""
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(_PATIENCE_S)
    try:
        link.connect(str(path))
    except ConnectionRefusedError:  # whoever made it is dead
        link.close()
        with suppress(OSError):
            path.unlink()
        return None
    except OSError as error:
        link.close()
        log.warning("the sensor at %s does not answer (%s)", path, error)
        return None
    return link


def _ask(path: Path) -> dict[str, Any] | None:
    link = _connect(path)
    if link is None:
        return None
    content = b""
    with link:
        try:
            while len(content) < _MOST_BYTES and (part := link.recv(1 << 16)):
                content += part
            found = json.loads(content)
        except (OSError, ValueError) as error:
            log.warning("the sensor at %s gives no answer that can be read (%s)", path, error)
            return None
    return found if isinstance(found, dict) and "sensor" in found else None

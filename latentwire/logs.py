"""Logging of the command's processes: lines for people, or one JSON object a line for programs."""

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

STYLES = ("text", "json")

_PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (UTC), level, logger, message, then what ``extra`` held, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _PLAIN and name not in fields}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def set_up(level: int, style: str) -> None:
    """Log to standard error in that style, our own records from ``level`` on, other libraries' from warnings on.

    Where the program around us has its own handlers, they stay as they are.
    """
    if style not in STYLES:
        raise ValueError(f"the log format must be one of {', '.join(STYLES)}, not {style!r}")
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonLines() if style == "json" else text)
    logging.basicConfig(handlers=[handler])
    logging.getLogger("latentwire").setLevel(level)
    if are_json():
        sys.excepthook = _log_unforeseen


def are_json() -> bool:
    """Whether this process logs JSON, so that nothing else should be written to standard error."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def _log_unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("latentwire").critical("unforeseen error: %s", error, exc_info=(kind, error, trace))

"""One JSON object a line, for programs; plain lines otherwise."""

import json
import logging
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

from latentwire.logs import JsonLines, set_up


def record(message: str, *arguments: object, **extra: object) -> dict[str, Any]:
    made = logging.getLogger("latentwire.test").makeRecord(
        "latentwire.test", logging.WARNING, "f.py", 1, message, arguments, None, extra=extra
    )
    line = JsonLines().format(made)
    assert "\n" not in line
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_record_is_one_object() -> None:
    found = record('link "%s" is\nlost: %d ü', "mast", 3, port=7, where=object)
    assert (found["level"], found["logger"]) == ("warning", "latentwire.test")
    assert found["message"] == 'link "mast" is\nlost: 3 ü'
    assert found["port"] == 7
    assert found["where"] == str(object)
    assert datetime.fromisoformat(found["time"]).utcoffset() is not None
    assert set(found) == {"time", "level", "logger", "message", "port", "where"}


def test_an_extra_takes_no_field_of_ours() -> None:
    assert record("hello", level="loud")["level"] == "warning"


def test_a_style_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="text, json"):
        set_up(logging.INFO, "xml")


def run(code: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, *arguments, code], capture_output=True, text=True, timeout=60)
    return done.stderr.splitlines()


@pytest.mark.parametrize(("style", "level"), [("json", "critical"), ("text", None)])
def test_an_unforeseen_error_is_a_record_too(style: str, level: str | None) -> None:
    code = f"from latentwire.logs import set_up; set_up(20, {style!r}); 1 / 0"
    lines = run(code, "-c")
    if level is None:
        assert lines[-1] == "ZeroDivisionError: division by zero"
        return
    (line,) = lines
    found = json.loads(line)
    assert (found["level"], found["message"]) == (level, "unforeseen error: division by zero")
    assert "Traceback" in found["traceback"]


def test_a_failed_command_is_a_record() -> None:
    command = [sys.executable, "-m", "latentwire", "--log-format", "json", "bundle", "show", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["error"] == "BundleNotFoundError"

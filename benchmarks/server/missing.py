"""Packages that only the comparison needs, asked for by name."""

import importlib
import importlib.util
from typing import Any

from latentwire.errors import LatentwireError

PACKAGES = ("litserve", "fastapi", "uvicorn", "PIL")


def missing() -> list[str]:
    """Which of them are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def needed(name: str) -> Any:
    """That package; LatentwireError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LatentwireError(f"{name} is not installed: pip install 'latentwire[bench-server]'") from None

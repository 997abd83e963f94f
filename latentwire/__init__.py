"""Latentwire classifies images across a thin link: see docs/architecture.md."""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("latentwire")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

# ONNX Runtime reports usage to its makers unless told not to, before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__"]

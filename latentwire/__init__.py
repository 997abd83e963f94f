"""Latentwire classifies images across a thin link: see docs/architecture.md."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("latentwire")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]

"""citymote gateway: frames in, committed readings out (see README.md)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("citymote")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"

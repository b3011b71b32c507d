"""Find and repair wrong masks in medical images, in napari and from the command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("napari-noisylabel")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

__all__ = ["__version__"]

"""The project folder: events and runs in SQLite, maps in zarr."""

from napari_noisylabel.store.events import redoing, undoing
from napari_noisylabel.store.project import ProjectStore

__all__ = ["ProjectStore", "redoing", "undoing"]

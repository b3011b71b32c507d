"""The 2-D image families: PNG, JPEG, TIFF. One module each; here they are together."""

from __future__ import annotations

from napari_noisylabel.io import jpeg, png, tiff

FORMATS = (png.FORMAT, jpeg.FORMAT, tiff.FORMAT)

"""`python -m napari_noisylabel.cli` is `noisylabel`."""

from __future__ import annotations

import sys

from napari_noisylabel.cli import main

if __name__ == "__main__":
    sys.exit(main())

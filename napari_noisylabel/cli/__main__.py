"""`python -m napari_noisylabel.cli` is `noisylabel`."""

from __future__ import annotations

import sys

from napari_noisylabel.cli import main

sys.exit(main())

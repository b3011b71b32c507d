"""Sample data that comes with the program. Its licence is its own: see the folder's LICENSE.txt."""

from __future__ import annotations

from pathlib import Path


def hippocampus_folder() -> Path:
    """Folder of 24 small MRI volumes: `images/`, `labels/`, and `groups.csv` (which person).

    Twelve persons, both sides each; T1 MRI cropped around one hippocampus, 1 mm voxels, with
    1 = anterior and 2 = posterior part. Medical Segmentation Decathlon, CC BY-SA 4.0.
    """
    return Path(__file__).parent / "hippocampus"

"""From folders of files to the cases of a project: the door that the rest of the program uses.

    found = find_cases(images, {"labels": labels})      # which files belong together: pairing.py
    checked = check_cases(found)                        # every file opened once: checks.py
    tracks, cases = make_tracks(checked), make_cases(checked)  # the records: cases.py
    labels = load_labels(cases[0], tracks[0])           # class indices, if the file is unchanged

What the person says about cases (split, groups, tags) is read in tables.py; tags.py sees that tags fit.
"""

from __future__ import annotations

from napari_noisylabel.io.cases import (
    load_file,
    load_image,
    load_labels,
    load_rater,
    make_cases,
    make_tracks,
)
from napari_noisylabel.io.checks import CheckedCase, Problem, check_case, check_cases, examine_cases
from napari_noisylabel.io.files import file_hash, hash_matches, looks_changed, source_file
from napari_noisylabel.io.pairing import FoundCase, find_cases
from napari_noisylabel.io.tables import read_groups, read_split, read_tags
from napari_noisylabel.io.tags import check_tags, track_of_tags
from napari_noisylabel.io.values import class_indices, source_values

__all__ = [
    "CheckedCase",
    "FoundCase",
    "Problem",
    "check_case",
    "check_cases",
    "check_tags",
    "class_indices",
    "examine_cases",
    "file_hash",
    "find_cases",
    "hash_matches",
    "load_file",
    "load_image",
    "load_labels",
    "load_rater",
    "looks_changed",
    "make_cases",
    "make_tracks",
    "read_groups",
    "read_split",
    "read_tags",
    "source_file",
    "source_values",
    "track_of_tags",
]

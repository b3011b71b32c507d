"""What an installed copy must hold: manifest, entry points, sample data, and no torch in the base."""

from __future__ import annotations

import ast
import configparser
import csv
import hashlib
from pathlib import Path

import pytest
from npe2 import PluginManifest

from napari_noisylabel.samples import hippocampus_folder

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "napari_noisylabel"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(PACKAGE / "napari.yaml")


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def test_every_command_of_the_manifest_names_something_that_is_there(manifest):
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert name in defined_in(REPOSITORY / Path(*module.split(".")).with_suffix(".py"))


def test_the_manifest_at_the_top_is_the_one_in_the_package():
    link = REPOSITORY / "napari.yaml"
    assert link.is_symlink()
    assert link.resolve() == (PACKAGE / "napari.yaml").resolve()


def test_all_brings_exactly_one_qt_binding(setup_cfg):
    extras = setup_cfg["options.extras_require"]
    assert extras["all"] == "napari-noisylabel[train,dicom,fast,pyqt5]"
    assert names(setup_cfg["options"]["install_requires"]).isdisjoint({"pyqt5", "pyqt6", "pyside6"})


def test_the_base_install_has_no_torch(setup_cfg):
    base = names(setup_cfg["options"]["install_requires"])
    assert base.isdisjoint(names(setup_cfg["options.extras_require"]["train"]))


def test_every_direct_dependency_has_a_tested_version(setup_cfg):
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    wanted = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    assert set().union(*map(names, wanted)) - {"napari-noisylabel"} <= pinned


def test_the_sample_files_are_as_distributed():
    folder = hippocampus_folder()
    sums = [line.split() for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()]
    assert len(sums) == 48
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sum_ for sum_, name in sums)


def test_every_sample_volume_has_a_label_a_person_and_a_licence():
    folder = hippocampus_folder()
    with open(folder / "groups.csv", newline="", encoding="utf-8") as file:
        persons = {row["case"]: row["group"] for row in csv.DictReader(file)}
    images = {path.name for path in (folder / "images").iterdir()}
    assert images == {path.name for path in (folder / "labels").iterdir()}
    assert {name.removesuffix(".nii.gz") for name in images} == set(persons)
    assert len(set(persons.values())) == 12
    assert "CC BY-SA 4.0" in (folder / "LICENSE.txt").read_text("utf-8")


def defined_in(path: Path) -> set[str]:
    """Names that a module defines at its top level."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def names(requirements: str) -> set[str]:
    """Names of the packages in a list of requirements, in small letters."""
    lines = [line.split(";")[0] for line in requirements.splitlines()]
    return {_until(line.strip().lower(), "<>=[! ") for line in lines if line.strip()}


def _until(text: str, stops: str) -> str:
    return text[: next((i for i, letter in enumerate(text) if letter in stops), len(text))]

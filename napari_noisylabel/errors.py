"""Everything that can go wrong in words that a person can act on.

    NoisyLabelError
    |-- InputError          what the person gave cannot be used           exit 2
    |   |-- NoPairs, UnpairedFiles, UnreadableFile, BadImage, BadLabels
    |   |-- ShapeMismatch, GeometryMismatch, SourceChanged
    |   |-- UnknownName     a method, case, region, run, track or setting that is not there
    |   `-- BadSetting      a setting outside its range
    |-- ProjectError        the project folder cannot be used as asked    exit 2
    |   |-- NotAProject, ProjectExists, NewerSchema, ProjectLocked, ReadOnlyProject
    |   `-- NothingToDo     zero proposals, nothing to undo, no complete run
    |-- ExportRefused       a volume cannot leave as it should            exit 2
    |-- MissingPart         an optional dependency is not installed       exit 2
    |-- DiskFull            no room left on the device                    exit 1
    `-- RunFailed           a training run stopped because of an error    exit 1

A message says the rule, what came, where, and the next step, in one or two sentences.
Each class also derives from the built-in that a caller would expect.
"""

from __future__ import annotations


class NoisyLabelError(Exception):
    """Root of all errors that carry a sentence for the person at the screen."""

    exit_code = 2


class InputError(NoisyLabelError, ValueError):
    """What was handed in cannot be used."""


class NoPairs(InputError):
    """Not one image has a label file of the same name."""


class UnpairedFiles(InputError):
    """Some labels have no image, or some images no label."""


class UnreadableFile(InputError, OSError):
    """A file or folder cannot be read: missing, truncated, of another kind, or not permitted."""


class BadImage(InputError):
    """An image holds nothing to learn from: NaN, one value everywhere, a wrong number of axes."""


class BadLabels(InputError):
    """A label file holds values that are no classes."""


class ShapeMismatch(InputError):
    """Two arrays that must lie on one grid differ in shape."""


class GeometryMismatch(InputError):
    """Two volumes that must lie on one grid differ in affine."""


class SourceChanged(InputError):
    """A given file is not the one that the project was made from."""


class UnknownName(InputError, KeyError):
    """A name that nothing here answers to."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class BadSetting(InputError):
    """A setting outside its range or of the wrong type."""


class ProjectError(NoisyLabelError, RuntimeError):
    """The project folder cannot be used as asked."""


class NotAProject(ProjectError):
    """The folder holds no project."""


class ProjectExists(ProjectError):
    """The folder holds a project already, or other files."""


class NewerSchema(ProjectError):
    """The project was written by a newer version of the program."""


class ProjectLocked(ProjectError):
    """Another program writes to this project."""


class ReadOnlyProject(ProjectError):
    """The project was opened for reading, or its folder cannot be written."""


class NothingToDo(ProjectError):
    """The request is fine, but there is nothing it could act on."""


class ExportRefused(NoisyLabelError, ValueError):
    """A volume cannot be written with the geometry and the values that it must have."""


class MissingPart(NoisyLabelError, ImportError):
    """An optional dependency is not installed."""


class DiskFull(NoisyLabelError, OSError):
    """The device has no room left."""

    exit_code = 1


class RunFailed(NoisyLabelError, RuntimeError):
    """A training run stopped because of an error."""

    exit_code = 1

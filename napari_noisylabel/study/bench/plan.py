"""From a protocol to its cells: one training and what is measured of it, or what is made of other cells' results."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from napari_noisylabel.methods import ENSEMBLE, methods
from napari_noisylabel.study.bench.protocol import (
    BASELINE,
    CLEAN,
    DataSet,
    MethodChoice,
    Noise,
    Protocol,
    described,
)

CLEANLAB = "cleanlab"
PROGRAM = __name__.partition(".")[0]


@dataclass(frozen=True)
class Cell:
    """One row and seed of the table.

    `bases` are the cells whose results it is made of: the one that cleanlab scores, those that an ensemble combines.
    """

    protocol: Protocol
    data: DataSet
    noise: Noise
    method: MethodChoice
    seed: int
    bases: tuple[Cell, ...] = ()

    @cached_property
    def name(self) -> str:
        """A file name that is the same whenever the cell would give the same figures."""
        words = (self.data.name, self.noise.shown, f"{self.noise.share:g}", self.method.shown, str(self.seed))
        return f"{_slug('-'.join(words))}-{self._fingerprint()}"

    @property
    def set_name(self) -> str:
        """Of the files that all cells of a data set share."""
        return f"{_slug(self.data.name)}-{_digest(self._set_facts())}"

    @property
    def labels_name(self) -> str:
        """Of the labels that all methods start from: the same seed, the same errors."""
        facts = (self._set_facts(), described(self.noise), self.noise.strength, self.seed)
        return f"{_slug(f'{self.data.name}-{self.noise.shown}-{self.seed}')}-{_digest(facts)}"

    @property
    def keeps_probabilities(self) -> bool:
        """True where cleanlab will want them."""
        wanted = self.protocol.cleanlab and not self.bases and self.method == self.protocol.baseline
        return wanted and self.noise in self.data.noise

    @property
    def keeps_maps(self) -> bool:
        """True where an ensemble will want them."""
        wanted = any(m.name == ENSEMBLE.name for m in self.protocol.methods) and not self.bases
        return wanted and self.method in self.protocol.methods and self.noise in self.data.noise

    def _set_facts(self) -> object:
        return self.data.model_dump(mode="json", exclude={"noise"}), self.protocol.verified

    def _fingerprint(self) -> str:
        code = _own_code(self.method.name)
        return _digest((
            self._set_facts(), described(self.noise), self.noise.strength, described(self.method), self.seed,
            described(self.protocol.budget), described(self.protocol.filter), "+".join(b.name for b in self.bases),
            *([code] if code else []),
        ))  # fmt: skip


def cells_of(protocol: Protocol) -> tuple[Cell, ...]:
    """All cells, seed by seed and set by set; the upper bound (cross-entropy on clean labels) comes first."""
    return tuple({cell.name: cell for cell in _cells(protocol)}.values())


def upper_cell(cell: Cell) -> Cell:
    """Cross-entropy on the true labels, with the same network, budget and seed."""
    method = cell.protocol.baseline or MethodChoice(name=BASELINE)
    clean = next((n for n in cell.data.noise if n.name == CLEAN), Noise(name=CLEAN))
    return Cell(cell.protocol, cell.data, clean, method, cell.seed)


def _cells(protocol: Protocol) -> Iterator[Cell]:
    for seed in protocol.seeds:
        for data in protocol.sets:
            yield upper_cell(Cell(protocol, data, data.noise[0], protocol.methods[0], seed))
            for noise in sorted(data.noise, key=lambda n: n.name != CLEAN):
                trained = [Cell(protocol, data, noise, m, seed) for m in protocol.methods if m.name != ENSEMBLE.name]
                for cell in trained:
                    yield cell
                    if cell.keeps_probabilities:
                        yield Cell(protocol, data, noise, MethodChoice(name=CLEANLAB), seed, (cell,))
                for method in (m for m in protocol.methods if m.name == ENSEMBLE.name):
                    yield Cell(protocol, data, noise, method, seed, tuple(trained))


def _own_code(method: str) -> str:
    """Digest of the package that a third party's method is in, so that figures of other code are not kept; else "".

    Nothing of it is imported. The program's own methods are told apart by the version in each record.
    """
    known = methods().get(method)
    package = known.factory.partition(":")[0].partition(".")[0] if known is not None else PROGRAM
    spec = importlib.util.find_spec(package) if package != PROGRAM else None
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    if not folders and spec.origin:  # a single file
        files = [Path(spec.origin)]
    return _digest([[file.name, file.read_text("utf-8")] for file in files])


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_-]+", "-", text).strip("-.")[:120]

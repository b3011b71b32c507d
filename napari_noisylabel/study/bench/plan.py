"""From a protocol to its cells: one training and what is measured of it, or what is made of other cells' results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from napari_noisylabel.methods import ENSEMBLE
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

    @property
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
        return _digest((
            self._set_facts(), described(self.noise), self.noise.strength, described(self.method), self.seed,
            described(self.protocol.budget), described(self.protocol.filter), "+".join(b.name for b in self.bases),
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


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_-]+", "-", text).strip("-.")[:120]

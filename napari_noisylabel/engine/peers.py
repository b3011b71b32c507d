"""Two classifiers that choose for each other: active label refinement on whole examples, as it was published.

Examples are pictures with one class each, or rows of features. The loop is that of Khanal et al., MICCAI 2024, first
phase; the formulas are those of the method for masks (`methods.active_refinement_formulas`). Rounds of asking are
in `study.tags`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_noisylabel.engine.data import normalise
from napari_noisylabel.errors import BadImage
from napari_noisylabel.methods import active_refinement_formulas as formulas
from napari_noisylabel.methods.settings import PeersSettings
from napari_noisylabel.networks import build_classifier

PEERS = 2
SHIFT = 0.06  # of a picture's side, at most, that augmentation moves it by


@dataclass(frozen=True)
class PeersEpoch:
    """What became of one epoch: forget rate, share that each peer kept of each class (2, K), overlap of choices."""

    epoch: int
    rate: float
    kept: np.ndarray
    overlap: float | None


class Peers:
    """Two classifiers on the same examples.

    examples (N, C, *spatial) or (N, d) float32, labels (N,) class indices; `classes` their number. All
    randomness is of `seed`. `clean` (N,) bool is known after `teach`.
    """

    def __init__(
        self, examples: np.ndarray, labels: np.ndarray, classes: int, settings: PeersSettings, seed: int = 0
    ) -> None:
        self.examples = torch.from_numpy(np.ascontiguousarray(examples, np.float32))
        self.labels = torch.from_numpy(np.asarray(labels, np.int64).copy())
        self.classes, self.settings = classes, settings
        self.rng = torch.Generator().manual_seed(seed)
        self.networks = []
        for peer in range(PEERS):
            torch.manual_seed(PEERS * seed + peer)
            self.networks.append(build_classifier(tuple(self.examples.shape[1:]), classes, settings.hidden))
        n = len(self.labels)
        self.clean = np.ones(n, bool)
        self.rate = settings.forget or formulas.MOST_RATE
        self._vog = torch.full((PEERS, n), torch.inf)
        self._history: list[Tensor] = []  # of the last epochs: (PEERS, N, features + 1)

    # ------------------------------------------------------------ first phase

    def teach(self) -> Iterator[PeersEpoch]:
        """Train both peers, each on what the other proposes; one report per epoch."""
        s = self.settings
        optimisers = [self._optimiser(network) for network in self.networks]
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, s.epochs) for o in optimisers]
        votes: list[Tensor] = []
        for epoch in range(s.epochs):
            rate = formulas.forget_rate(epoch, self.rate, max(1, round(s.ramp * s.epochs)))
            steady = s.share if epoch >= max(s.memory, round(s.vog_from * s.epochs)) else 0.0
            chosen, overlaps = torch.zeros((PEERS, len(self.labels)), dtype=torch.bool), []
            for batch in self._batches():
                proposals = self._step(batch, rate, steady, optimisers)
                for peer, own in enumerate(proposals):
                    chosen[peer, batch[own]] = True
                overlaps.append(formulas.overlap(*proposals))
            for schedule in schedules:
                schedule.step()
            votes = [*votes[-s.memory + 1 :], chosen]
            self._remember()
            kept = np.array([[self._share(own, k) for k in range(self.classes)] for own in chosen])
            known = [o for o in overlaps if o is not None]
            yield PeersEpoch(epoch, rate, kept, float(np.mean(known)) if known else None)
        most = torch.stack(votes).float().mean((0, 1)) > 0.5
        self.clean = (votes[-1][0] if s.clean_by == "last" else most).numpy()

    def _step(
        self, batch: Tensor, rate: float, steady: float, optimisers: Sequence[torch.optim.Optimizer]
    ) -> list[Tensor]:
        """One step of both peers; what each proposed, (B,) bool."""
        images, labels = self._augmented(batch), self.labels[batch]
        outputs = [network.train()(images)[0] for network in self.networks]
        losses = [F.cross_entropy(logits, labels, reduction="none") for logits in outputs]
        proposals = []
        for peer in range(PEERS):
            vog = self._scored(peer)[batch]
            loss = losses[peer].detach()
            proposals.append(formulas.choose(loss, vog, labels, rate, steady, self.settings.per_class))
        for peer, optimiser in enumerate(optimisers):
            taught = proposals[1 - peer]
            if taught.any():
                optimiser.zero_grad()
                losses[peer][taught].mean().backward()
                optimiser.step()
        return proposals

    @torch.no_grad()
    def _remember(self) -> None:
        """A further pass over the examples, transformed as in training and in training mode, for the gradients."""
        gradients = []
        for network in self.networks:
            network.train()
            rows = []
            for batch in torch.arange(len(self.labels)).split(self.settings.batch):
                logits, features = network(self._augmented(batch))
                probs = logits.softmax(1)
                if self.settings.rows == "all":
                    rows.append(formulas.all_gradients(probs, self.labels[batch], features).flatten(1))
                else:
                    given = probs.gather(1, self.labels[batch, None]).squeeze(1)
                    rows.append(formulas.given_gradients(given, features))
            gradients.append(torch.cat(rows))
        self._history = [*self._history[-self.settings.memory + 1 :], torch.stack(gradients)]
        if self.settings.rows == "given" and not self.settings.forget:
            p_given = 1 + self._history[-1][:, :, 0].mean(0)
            self.rate = formulas.estimated_rate(p_given, torch.ones_like(p_given))
        if len(self._history) == self.settings.memory:
            history = torch.stack(self._history)
            self._vog = torch.stack([formulas.variance_of_gradients(history[:, peer]) for peer in range(PEERS)])

    def _scored(self, peer: int) -> Tensor:
        own = self._vog[peer]
        return formulas.within_class(own, self.labels) if self.settings.vog == "class" else own

    # ------------------------------------------------------------ second phase

    def refine(self, labels: np.ndarray, kept: np.ndarray) -> None:
        """Let the first network go on, with its weights, on the examples `kept` (N,) and their labels of now."""
        self.labels = torch.from_numpy(np.asarray(labels, np.int64).copy())
        optimiser = self._optimiser(self.networks[0])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.settings.refine)
        network, which = self.networks[0], torch.from_numpy(np.flatnonzero(kept))
        for _ in range(self.settings.refine):
            network.train()
            for batch in self._batches(which):
                optimiser.zero_grad()
                F.cross_entropy(network(self._augmented(batch))[0], self.labels[batch]).backward()
                optimiser.step()
            schedule.step()

    @torch.no_grad()
    def look(self, examples: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The first network on its own examples or on others: probs (N, K) and features (N, F), as in evaluation."""
        network = self.networks[0].eval()
        own = self.examples if examples is None else torch.from_numpy(np.ascontiguousarray(examples, np.float32))
        found = [network(part) for part in own.split(self.settings.batch)]
        return torch.cat([logits.softmax(1) for logits, _ in found]).numpy(), torch.cat([f for _, f in found]).numpy()

    @torch.no_grad()
    def passes(self, n: int = 10) -> np.ndarray:
        """(n, N, K): the first network on its examples, transformed anew each time, as BALD compares them."""
        network, every = self.networks[0].eval(), torch.arange(len(self.labels))
        each = [
            torch.cat([network(self._augmented(b))[0].softmax(1) for b in every.split(self.settings.batch)])
            for _ in range(n)
        ]
        return torch.stack(each).numpy()

    # ------------------------------------------------------------ helpers

    def _optimiser(self, network: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), self.settings.lr, momentum=0.9, weight_decay=1e-4)

    def _batches(self, which: Tensor | None = None) -> Iterator[Tensor]:
        """Indices of examples, shuffled; a last batch of one example is left out, as it has no spread."""
        own = torch.arange(len(self.labels)) if which is None else which
        shuffled = own[torch.randperm(len(own), generator=self.rng)]
        yield from (b for b in shuffled.split(self.settings.batch) if len(b) > 1)

    def _augmented(self, batch: Tensor) -> Tensor:
        """Noise on everything; pictures are also moved a little and changed in contrast."""
        x = self.examples[batch]
        if x.ndim > 2:
            for axis in range(2, x.ndim):
                most = round(SHIFT * x.shape[axis])
                x = x.roll(int(torch.randint(-most, most + 1, (1,), generator=self.rng)), axis)
            scale = 0.8 + 0.4 * torch.rand((len(x), *(1 for _ in x.shape[1:])), generator=self.rng)
            x = x * scale
        return x + self.settings.noise * torch.randn(x.shape, generator=self.rng)

    def _share(self, chosen: Tensor, k: int) -> float:
        own = self.labels == k
        return float(chosen[own].float().mean()) if own.any() else float("nan")


def prepare_pictures(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Pictures (C, *spatial) of any size, 2-D or 3-D, normalised and brought to one size: (N, C, side, ...) float32.

    Raises
    ------
    BadImage : they differ in their number of channels or axes.
    """
    kinds = {(len(p), p.ndim) for p in pictures}
    if len(kinds) > 1:
        raise BadImage(
            f"pictures that are compared have the same channels and axes, got (channels, axes) {sorted(kinds)}. "
            "Convert them to one kind."
        )
    out = []
    for picture in pictures:
        own = torch.from_numpy(normalise(picture.astype(np.float32)))[None]
        size = [side] * (picture.ndim - 1)
        out.append(F.interpolate(own, size, mode="bilinear" if len(size) == 2 else "trilinear", antialias=False)[0])
    return torch.stack(out).numpy()

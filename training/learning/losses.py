"""Contrastive losses over sampled descriptors: tensors in, scalars out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PairDescriptors:
    """Unit descriptors of one view pair: ``fine`` and ``coarse`` (2, P, C) of the fixed and the moving view, at positions ``patient_mm`` (2, P, 3).

    The first ``matched`` rows of the two views show the same anatomy; the others are random negatives. Each view's positions are in its own
    patient's frame. ``slack_mm`` is how far the correspondence may be off: 0 within one patient, some mm between patients. ``frames`` are the
    numbers of the two patients, ``seed`` of the random choice of negatives. Where a correspondence is not exact, ``around`` (2, matched, K, C) are fine
    descriptors of places within the slack of each matched point; K is 0 otherwise. ``semantic`` (N, C) are descriptors of labelled points of both views and
    ``truth`` (N, K) int8 says of each whether it is structure k (1), certainly not (-1), or nobody said (0).
    """

    fine: Tensor
    coarse: Tensor
    patient_mm: Tensor
    matched: int
    slack_mm: float = 0.0
    frames: tuple[int, int] = (0, 0)
    seed: int = 0
    around: Tensor = field(default_factory=lambda: torch.empty(2, 0, 0, 0))
    semantic: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    truth: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int8))

    @cached_property
    def squared_mm(self) -> Tensor:
        """Squared distances (2, matched, P) of the matched points from all positions of their view.

        By differences: the way through the squares is 0.25 mm off half a metre from the origin, and ``cdist`` without it takes 40 ms on a GPU.
        """
        return sum((c[:, : self.matched, None] - c[:, None]).square() for c in self.patient_mm.unbind(2))


@dataclass(frozen=True)
class ContrastOptions:
    """Settings of the SAM losses. A negative nearer than ``*_ignore_mm`` to the anchor is not judged; each loss keeps ``*_keep`` random ones of the
    ``*_pool`` hardest (all, where there are fewer); ``cross_negatives`` come from other patients, without the ``cross_skip`` share most like the
    anchor. Of the correspondences between patients the ``trim`` share that agrees least is left out."""

    fine_ignore_mm: float = 4.0
    coarse_ignore_mm: float = 24.0
    fine_pool: int = 20000
    fine_keep: int = 20000
    coarse_pool: int = 20000
    coarse_keep: int = 20000
    fine_temperature: float = 0.1
    coarse_temperature: float = 0.1
    cross_negatives: int = 400
    trim: float = 0.25
    cross_skip: float = 0.1


@dataclass(frozen=True)
class SemanticOptions:
    """Settings of the semantic loss: its ``weight`` beside the SAM losses, its ``temperature``, how many points ``per_structure`` and view are
    compared. With ``alternate_p`` above 0, that share of the steps has the semantic loss alone and the others the SAM losses alone."""

    weight: float = 0.5
    temperature: float = 0.1
    per_structure: int = 32
    alternate_p: float = 0.0


@dataclass(frozen=True)
class Bank:
    """Coarse descriptors ``rows`` (M, C), without gradient, that the pairs of a step offer each other, and the patient ``frames`` (M,) of each."""

    rows: Tensor
    frames: Tensor

    def foreign(self, pair: PairDescriptors, n: int, g: Generator) -> Tensor | None:
        """``n`` random descriptors of other patients than those of ``pair``; None if the step has no other patient."""
        others = self.rows[(self.frames[:, None] != torch.tensor(pair.frames, device=self.frames.device)).all(1)]
        return _random_rows(others, n, g) if len(others) else None


def offered(pairs: list[PairDescriptors], o: ContrastOptions) -> Bank:
    """``cross_negatives`` random coarse descriptors of each pair, as many of either view."""
    rows, frames = [], []
    for pair in pairs:
        g = Generator().manual_seed(pair.seed)
        for side in (0, 1):
            rows.append(_random_rows(pair.coarse[side], o.cross_negatives // 2, g))
            frames += [pair.frames[side]] * len(rows[-1])
    return Bank(torch.cat(rows), torch.tensor(frames, device=rows[0].device))


def sam_losses(pairs: list[PairDescriptors], o: ContrastOptions, bank: Bank | None = None) -> dict[str, Tensor]:
    """Mean fine and coarse loss of SAM (Yan et al., section 3.2), both directions of every pair. ``bank``: by default what the pairs offer each other."""
    bank = bank or offered(pairs, o)
    fine, coarse = [], []
    for pair in pairs:
        g = Generator().manual_seed(pair.seed)
        foreign = bank.foreign(pair, o.cross_negatives, g)
        for side in (0, 1):
            fine.append(fine_loss(pair, side, o, g))
            coarse.append(coarse_loss(pair, side, foreign, o, g))
    return {"fine": torch.stack(fine).mean(), "coarse": torch.stack(coarse).mean()}


def semantic_loss(descriptors: Tensor, truth: Tensor, temperature: float) -> Tensor:
    """Prototypical supervised contrastive loss across volumes (UAE, section 3.2).

    ``descriptors`` (N, C) unit vectors of labelled points of several scans; ``truth`` (N, K) int8, see :class:`PairDescriptors`. The prototype of a
    structure is the mean of its points (not normalised, gradients flow through it); against it, each of them competes with all points known to
    be something else. What nobody said takes no part: a structure that a source does not label is unknown there, not background.
    """
    positive, negative = (truth == 1).T, (truth == -1).T
    judged = (positive.sum(1) >= 2) & negative.any(1)
    if not judged.any():
        return 0 * descriptors.sum()
    positive, unknown = positive[judged], ~(positive | negative)[judged]
    count = positive.sum(1)
    prototypes = positive.to(descriptors.dtype) @ descriptors / count[:, None]
    log_p = (prototypes @ descriptors.T / temperature).masked_fill(unknown, -torch.inf).log_softmax(1)
    return -(log_p.masked_fill(~positive, 0).sum(1) / count).mean()


def fine_loss(pair: PairDescriptors, side: int, o: ContrastOptions, g: Generator) -> Tensor:
    """Anchors of one ``side`` against their partners; negatives are the hardest by fused similarity, judged by the fine one."""
    n = pair.matched
    anchor, pool = pair.fine[side, :n], pair.fine.flatten(0, 1)
    excluded = too_close(pair, side, o.fine_ignore_mm)
    similarity = anchor @ pool.T
    if o.fine_keep < len(pool):
        fused = similarity.detach() + pair.coarse[side, :n].detach() @ pair.coarse.flatten(0, 1).detach().T
        chosen = hardest(fused, excluded, o.fine_pool, o.fine_keep, g)
        similarity, excluded = similarity.gather(1, chosen), excluded.gather(1, chosen)
    positive = (anchor * pair.fine[1 - side, :n]).sum(1)
    if pair.around.shape[2]:
        positive = somewhere(torch.einsum("nc,nkc->nk", anchor, pair.around[1 - side]), o.fine_temperature)
    kept = trusted(positive, pair, o)
    return info_nce(positive[kept], similarity[kept], excluded[kept], o.fine_temperature)


def somewhere(cosines: Tensor, temperature: float) -> Tensor:
    """One cosine (N,) for a partner that is at one of K places, cosines (N, K): their soft maximum, a log-mean-exp (MIL-NCE, Miech et al. 2020)."""
    return temperature * ((cosines / temperature).logsumexp(1) - math.log(cosines.shape[1]))


def coarse_loss(pair: PairDescriptors, side: int, foreign: Tensor | None, o: ContrastOptions, g: Generator) -> Tensor:
    """As the fine loss, on the coarse head; ``foreign`` (M, C) are descriptors of other patients, the most similar ones skipped."""
    n = pair.matched
    anchor = pair.coarse[side, :n]
    negatives = anchor @ pair.coarse.flatten(0, 1).T
    excluded = too_close(pair, side, o.coarse_ignore_mm)
    if o.coarse_keep < negatives.shape[1]:
        chosen = hardest(negatives.detach(), excluded, o.coarse_pool, o.coarse_keep, g)
        negatives, excluded = negatives.gather(1, chosen), excluded.gather(1, chosen)
    if foreign is not None:
        apart = anchor @ foreign.T
        keep = max(1, int(apart.shape[1] * (1 - o.cross_skip)))
        apart = apart.topk(keep, dim=1, largest=False).values
        negatives = torch.cat([negatives, apart], dim=1)
        excluded = torch.cat([excluded, torch.zeros_like(apart, dtype=torch.bool)], dim=1)
    positive = (anchor * pair.coarse[1 - side, :n]).sum(1)
    kept = trusted(positive, pair, o)
    return info_nce(positive[kept], negatives[kept], excluded[kept], o.coarse_temperature)


def trusted(positive: Tensor, pair: PairDescriptors, o: ContrastOptions) -> Tensor:
    """Row numbers of the correspondences to learn from: all within one patient, without the least similar ones between patients."""
    count = len(positive) if pair.slack_mm == 0 else max(1, round(len(positive) * (1 - o.trim)))
    return positive.detach().topk(count).indices


def too_close(pair: PairDescriptors, side: int, radius_mm: float) -> Tensor:
    """(matched, 2P) mask of pool positions that may show the anchor's own anatomy: within ``radius_mm`` of the anchor in its own view, and of
    its partner, plus the slack of the pair, in the other view."""
    limits = (radius_mm + (0.0 if s == side else pair.slack_mm) for s in (0, 1))
    return torch.cat([squared < limit**2 for squared, limit in zip(pair.squared_mm, limits, strict=True)], dim=1)


def info_nce(positive: Tensor, negatives: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE. ``positive`` (N,) and ``negatives`` (N, M) are cosines; ``excluded`` (N, M) marks negatives that take no part.

    Excluded negatives get minus infinity (the published code multiplied them by zero, which made them rivals of cosine 0).
    """
    logits = torch.cat([positive[:, None], negatives.masked_fill(excluded, -torch.inf)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def hardest(score: Tensor, excluded: Tensor, pool: int, keep: int, g: Generator) -> Tensor:
    """Indices (N, keep) of ``keep`` random negatives out of the ``pool`` highest ``score`` (N, M) that are not ``excluded``."""
    pool = min(pool, score.shape[1])
    ranked = score.masked_fill(excluded, -torch.inf).topk(pool, dim=1, sorted=False).indices
    chosen = torch.randperm(pool, generator=g)[: min(keep, pool)].to(score.device)
    return ranked[:, chosen]


def _random_rows(x: Tensor, n: int, g: Generator) -> Tensor:
    return x[torch.randint(0, len(x), (n,), generator=g).to(x.device)].detach()

"""Contrastive losses over sampled descriptors: tensors in, scalars out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PairDescriptors:
    """Unit descriptors of one view pair: ``fine`` and ``coarse`` (2, P, C) of the fixed and the moving view, at positions ``patient_mm`` (2, P, 3).

    The first ``matched`` rows of the two views show the same anatomy; the others are random negatives. Each view's positions are in its own
    patient's frame. ``slack_mm`` is how far the correspondence may be off: 0 within one patient, some mm between patients.
    """

    fine: Tensor
    coarse: Tensor
    patient_mm: Tensor
    matched: int
    slack_mm: float = 0.0


@dataclass(frozen=True)
class ContrastOptions:
    """Settings of the SAM losses. A negative nearer than ``*_ignore_mm`` to the anchor is not judged; the fine loss keeps ``fine_keep`` random
    ones of the ``fine_pool`` hardest (all, where there are fewer); ``cross_negatives`` come from other pairs, without the ``cross_skip`` share
    most like the anchor. Of the correspondences between patients the ``trim`` share that agrees least is left out."""

    fine_ignore_mm: float = 4.0
    coarse_ignore_mm: float = 24.0
    fine_pool: int = 20000
    fine_keep: int = 20000
    fine_temperature: float = 0.1
    coarse_temperature: float = 0.1
    cross_negatives: int = 400
    trim: float = 0.25
    cross_skip: float = 0.1


def sam_losses(pairs: list[PairDescriptors], o: ContrastOptions, g: Generator) -> dict[str, Tensor]:
    """Mean fine and coarse loss of SAM (Yan et al., section 3.2), both directions of every pair."""
    fine, coarse = [], []
    for pair in pairs:
        others = [p.coarse.flatten(0, 1) for p in pairs if p is not pair]
        foreign = _random_rows(torch.cat(others), o.cross_negatives, g) if others else None
        for side in (0, 1):
            fine.append(fine_loss(pair, side, o, g))
            coarse.append(coarse_loss(pair, side, foreign, o))
    return {"fine": torch.stack(fine).mean(), "coarse": torch.stack(coarse).mean()}


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
    kept = trusted(positive, pair, o)
    return info_nce(positive[kept], similarity[kept], excluded[kept], o.fine_temperature)


def coarse_loss(pair: PairDescriptors, side: int, foreign: Tensor | None, o: ContrastOptions) -> Tensor:
    """As the fine loss, on the coarse head; ``foreign`` (M, C) are descriptors of other patients, the most similar ones skipped."""
    n = pair.matched
    anchor = pair.coarse[side, :n]
    negatives = anchor @ pair.coarse.flatten(0, 1).T
    excluded = too_close(pair, side, o.coarse_ignore_mm)
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
    n = pair.matched
    own, other = (torch.cdist(pair.patient_mm[s, :n], pair.patient_mm[s]) for s in (side, 1 - side))
    masks = {side: own < radius_mm, 1 - side: other < radius_mm + pair.slack_mm}
    return torch.cat([masks[0], masks[1]], dim=1)


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

"""The contrastive losses against values worked out by hand, and the faults of the published code that must not come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_scene import ALL, pair, seeded, unit
from torch import Tensor
from torch.nn import functional as F

from training.learning.losses import (
    Bank,
    ContrastOptions,
    PairDescriptors,
    coarse_loss,
    fine_loss,
    hardest,
    info_nce,
    offered,
    sam_losses,
    semantic_loss,
    somewhere,
    too_close,
    trusted,
)


def other_side(p: PairDescriptors) -> PairDescriptors:
    return PairDescriptors(p.fine.flip(0), p.coarse.flip(0), p.patient_mm.flip(0), p.matched)


def restated(descriptors: Tensor, p: PairDescriptors, side: int, ignore_mm: float, temperature: float) -> float:
    """InfoNCE of one head in plain loops: all positions of both views farther than ``ignore_mm`` are negatives, in the other view from the partner."""
    losses = []
    for i in range(p.matched):
        anchor = descriptors[side, i]
        positive = float(anchor @ descriptors[1 - side, i]) / temperature
        negatives = [
            float(anchor @ descriptors[s, j]) / temperature
            for s in (0, 1)
            for j in range(p.patient_mm.shape[1])
            if float((p.patient_mm[s, j] - p.patient_mm[s, i]).norm()) >= ignore_mm + (p.slack_mm if s != side else 0)
        ]
        losses.append(np.logaddexp.reduce([positive, *negatives]) - positive)
    return float(np.mean(losses))


# --- InfoNCE --------------------------------------------------------------------------------------------------------------------------


def test_info_nce_by_hand() -> None:
    positive, negatives = torch.tensor([0.9, 0.2]), torch.tensor([[0.1, 0.8], [0.3, -0.4]])
    excluded = torch.tensor([[False, True], [False, False]])
    first = -np.log(np.exp(1.8) / (np.exp(1.8) + np.exp(0.2)))
    second = -np.log(np.exp(0.4) / (np.exp(0.4) + np.exp(0.6) + np.exp(-0.8)))
    assert float(info_nce(positive, negatives, excluded, 0.5)) == pytest.approx((first + second) / 2, abs=1e-6)


def test_an_excluded_negative_never_changes_the_loss() -> None:
    positive, excluded = torch.tensor([0.9]), torch.tensor([[False, True]])
    losses = [float(info_nce(positive, torch.tensor([[0.1, value]]), excluded, 0.1)) for value in (-1.0, 0.0, 0.5, 1.0)]
    assert len(set(losses)) == 1
    assert losses[0] < float(info_nce(positive, torch.tensor([[0.1, 0.0]]), torch.zeros(1, 2, dtype=torch.bool), 0.1))


def test_no_negative_left_costs_nothing() -> None:
    assert float(info_nce(torch.tensor([-0.3]), torch.tensor([[0.9]]), torch.tensor([[True]]), 0.1)) == 0


# --- a partner at one of several places -----------------------------------------------------------------------------------------------


def test_a_partner_somewhere_is_the_soft_maximum_of_its_places() -> None:
    cosines = torch.tensor([[0.9, 0.1, -0.5], [0.3, 0.3, 0.3]])
    found = somewhere(cosines, 0.1)
    by_hand = 0.1 * np.log(np.mean(np.exp(np.array([9.0, 1.0, -5.0]))))
    assert float(found[0]) == pytest.approx(by_hand, abs=1e-6)
    assert float(found[1]) == pytest.approx(0.3, abs=1e-6), "places that are alike are as good as one"


def test_between_patients_the_fine_loss_asks_for_the_best_place_around_the_partner() -> None:
    p = pair()
    beside = unit(2, p.matched, 4, 8, seed=9)
    beside[0, :, 2] = p.fine[1, : p.matched]
    beside[1, :, 2] = p.fine[0, : p.matched]
    known = replace(p, around=beside)
    assert float(fine_loss(known, 0, ALL, seeded())) < float(fine_loss(p, 0, ALL, seeded()))
    same = replace(p, around=p.fine[:, : p.matched, None].expand(-1, -1, 4, -1))
    assert float(fine_loss(same, 0, ALL, seeded())) == pytest.approx(float(fine_loss(p, 0, ALL, seeded())), abs=1e-5)


# --- hard negatives -------------------------------------------------------------------------------------------------------------------


def test_hardest_are_the_highest_that_are_not_excluded() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5, -0.2, 0.7], [-0.5, -0.1, -0.9, -0.3, -0.7]])
    excluded = torch.tensor([[False, True, False, False, False], [False, False, False, True, False]])
    chosen = hardest(score, excluded, pool=2, keep=2, g=seeded())
    assert [sorted(row) for row in chosen.tolist()] == [[2, 4], [0, 1]]


def test_excluded_are_not_picked_even_when_all_others_are_negative() -> None:
    """Multiplied by zero, as published, they would rank above every negative cosine."""
    score = -torch.rand(4, 50, generator=seeded(1))
    excluded = torch.zeros(4, 50, dtype=torch.bool)
    excluded[:, :20] = True
    score[:, :20] = 1.0
    for seed in range(5):
        assert (hardest(score, excluded, pool=30, keep=10, g=seeded(seed)) >= 20).all()


def test_kept_ones_are_a_random_part_of_the_pool() -> None:
    score, free = torch.rand(3, 40, generator=seeded(2)), torch.zeros(3, 40, dtype=torch.bool)
    top = score.topk(10, dim=1).indices
    draws = [hardest(score, free, pool=10, keep=4, g=seeded(seed)) for seed in range(12)]
    for chosen in draws:
        assert chosen.shape == (3, 4)
        for row, best in zip(chosen.tolist(), top.tolist(), strict=True):
            assert len(set(row)) == 4
            assert set(row) <= set(best)
    assert {i for chosen in draws for i in chosen[0].tolist()} == set(top[0].tolist()), "all of the pool gets its turn"
    assert torch.equal(draws[3], hardest(score, free, pool=10, keep=4, g=seeded(3)))


def test_a_pool_larger_than_there_is_takes_all() -> None:
    chosen = hardest(torch.rand(2, 6, generator=seeded()), torch.zeros(2, 6, dtype=torch.bool), pool=100, keep=100, g=seeded())
    assert [sorted(row) for row in chosen.tolist()] == [list(range(6))] * 2


# --- which are too close --------------------------------------------------------------------------------------------------------------


def test_too_close_is_measured_in_the_patient_in_both_views() -> None:
    p = pair()
    for side in (0, 1):
        mask = too_close(p, side, 40.0)
        for i in range(p.matched):
            distance = (p.patient_mm.flatten(0, 1) - p.patient_mm[side, i]).norm(dim=1)
            assert torch.equal(mask[i], distance < 40.0)


def test_the_point_itself_and_its_partner_are_never_negatives_however_far_from_the_origin() -> None:
    p = pair()
    far = replace(p, patient_mm=p.patient_mm + 1700.0)
    for side in (0, 1):
        mask = too_close(far, side, 10.0)
        rows = torch.arange(p.matched)
        assert mask[rows, rows].all()
        assert mask[rows, rows + p.patient_mm.shape[1]].all()


def test_between_patients_distances_are_taken_in_each_patient_with_slack_on_the_other_side() -> None:
    p = replace(pair(seed=3), slack_mm=15.0)
    p.patient_mm[1] += 500.0
    rows = p.patient_mm.shape[1]
    for side in (0, 1):
        mask = too_close(p, side, 30.0)
        for i in range(p.matched):
            for s, limit in ((side, 30.0), (1 - side, 45.0)):
                distance = (p.patient_mm[s] - p.patient_mm[s, i]).norm(dim=1)
                assert torch.equal(mask[i, s * rows : (s + 1) * rows], distance < limit)


# --- which correspondences to trust ---------------------------------------------------------------------------------------------------


def test_the_least_similar_correspondences_between_patients_are_left_out() -> None:
    positive = torch.tensor([0.9, -0.2, 0.5, 0.1])
    p = pair(matched=4)
    assert sorted(trusted(positive, p, ALL).tolist()) == [0, 1, 2, 3], "within one patient all are certain"
    doubtful = replace(p, slack_mm=10.0)
    assert sorted(trusted(positive, doubtful, replace(ALL, trim=0.5)).tolist()) == [0, 2]
    assert sorted(trusted(positive, doubtful, replace(ALL, trim=0.25)).tolist()) == [0, 2, 3]
    assert trusted(positive, doubtful, replace(ALL, trim=0.99)).tolist() == [0], "one always stays"


@pytest.mark.parametrize("side", [0, 1])
def test_between_patients_the_loss_is_that_of_the_trusted_ones(side: int) -> None:
    p = replace(pair(matched=4), slack_mm=15.0)
    options = replace(ALL, trim=0.5)
    for loss, head, ignored in (
        (fine_loss(p, side, options, seeded()), p.fine, options.fine_ignore_mm),
        (coarse_loss(p, side, None, options, seeded()), p.coarse, options.coarse_ignore_mm),
    ):
        best = (head[0, :4] * head[1, :4]).sum(1).topk(2).indices
        order = torch.cat([best, torch.tensor([i for i in range(head.shape[1]) if i not in best])])
        kept = replace(p, fine=p.fine[:, order], coarse=p.coarse[:, order], patient_mm=p.patient_mm[:, order], matched=2)
        assert float(loss) == pytest.approx(restated(kept.fine if head is p.fine else kept.coarse, kept, side, ignored, 0.1), rel=1e-4)


# --- the fine loss --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
def test_fine_loss_equals_the_restatement(side: int) -> None:
    p = pair()
    expected = restated(p.fine, p, side, ALL.fine_ignore_mm, ALL.fine_temperature)
    assert float(fine_loss(p, side, ALL, seeded())) == pytest.approx(expected, rel=1e-4)


def test_fine_loss_judges_the_fine_cosine_only() -> None:
    """The coarse head may choose which negatives are taken, never what they cost."""
    p = pair()
    fine, coarse = p.fine.clone().requires_grad_(), p.coarse.clone().requires_grad_()
    loss = fine_loss(replace(p, fine=fine, coarse=coarse), 0, ALL, seeded())
    loss.backward()
    assert coarse.grad is None
    assert (fine.grad.abs().sum(-1) > 0).all()
    other = replace(p, coarse=unit(*p.coarse.shape, seed=9))
    assert float(fine_loss(other, 0, ALL, seeded())) == pytest.approx(loss.item(), rel=1e-5)


def test_hard_negatives_are_ranked_by_fine_and_coarse_together() -> None:
    few = replace(ALL, fine_pool=6, fine_keep=6)
    p = pair(matched=1)
    pool = torch.cat([p.fine[0], p.fine[1]])
    fused = p.fine[0, 0] @ pool.T + p.coarse[0, 0] @ torch.cat([p.coarse[0], p.coarse[1]]).T
    fused[too_close(p, 0, few.fine_ignore_mm)[0]] = -torch.inf
    chosen = fused.topk(6).indices
    logits = torch.cat([(p.fine[0, 0] @ p.fine[1, 0])[None], pool[chosen] @ p.fine[0, 0]]) / few.fine_temperature
    assert float(fine_loss(p, 0, few, seeded())) == pytest.approx(float(torch.logsumexp(logits, 0) - logits[0]), rel=1e-4)


def test_a_near_place_costs_nothing_even_when_it_looks_the_same() -> None:
    p = pair(matched=1, others=30)
    p.patient_mm[:, 1:4] = p.patient_mm[0, 0] + torch.tensor([2.0, -1.0, 2.0])
    twin = replace(p, fine=p.fine.clone())
    twin.fine[:, 1:4] = p.fine[0, 0]
    for side in (0, 1):
        assert float(fine_loss(twin, side, ALL, seeded())) == pytest.approx(float(fine_loss(p, side, ALL, seeded())), rel=1e-6)


# --- the coarse loss ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
def test_coarse_loss_equals_the_restatement(side: int) -> None:
    p = pair()
    expected = restated(p.coarse, p, side, ALL.coarse_ignore_mm, ALL.coarse_temperature)
    assert float(coarse_loss(p, side, None, ALL, seeded())) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("side", [0, 1])
def test_coarse_negatives_come_from_both_views(side: int) -> None:
    p = pair()
    coarse = p.coarse.clone().requires_grad_()
    coarse_loss(replace(p, coarse=coarse), side, None, ALL, seeded()).backward()
    assert (coarse.grad[:, p.matched :].abs().sum(-1) > 0).all()


def test_the_most_similar_cells_of_other_patients_are_skipped() -> None:
    p = pair(matched=1)
    options = replace(ALL, cross_skip=0.2)
    foreign = unit(10, 6, seed=5)
    by_similarity = (foreign @ p.coarse[0, 0]).argsort(descending=True)

    def loss(row: int, o: ContrastOptions = options) -> float:
        changed = foreign.clone()
        changed[by_similarity[row]] = p.coarse[0, 0]
        return float(coarse_loss(p, 0, changed, o, seeded()))

    plain = float(coarse_loss(p, 0, foreign, options, seeded()))
    assert loss(0) == loss(1) == pytest.approx(plain, rel=1e-6)
    assert loss(0, replace(options, cross_skip=0.0)) > plain + 0.1
    expected = torch.cat([p.coarse.flatten(0, 1)[~too_close(p, 0, options.coarse_ignore_mm)[0]], foreign[by_similarity[2:]]])
    logits = torch.cat([(p.coarse[0, 0] @ p.coarse[1, 0])[None], expected @ p.coarse[0, 0]]) / options.coarse_temperature
    assert plain == pytest.approx(float(torch.logsumexp(logits, 0) - logits[0]), rel=1e-4)


# --- together -------------------------------------------------------------------------------------------------------------------------


def test_both_directions_count_the_same() -> None:
    p = pair()
    losses, swapped = sam_losses([p], ALL), sam_losses([other_side(p)], ALL)
    for name, descriptors, ignored in (("fine", p.fine, ALL.fine_ignore_mm), ("coarse", p.coarse, ALL.coarse_ignore_mm)):
        assert float(losses[name]) == pytest.approx(float(swapped[name]), rel=1e-5)
        mean = np.mean([restated(descriptors, p, side, ignored, 0.1) for side in (0, 1)])
        assert float(losses[name]) == pytest.approx(mean, rel=1e-4)


def test_other_pairs_of_the_step_add_negatives_to_the_coarse_loss_only() -> None:
    pairs = [pair(seed=0, frame=7), pair(seed=10, frame=8)]
    alone = [sam_losses([p], ALL) for p in pairs]
    together = sam_losses(pairs, ALL)
    assert float(together["fine"]) == pytest.approx(np.mean([float(a["fine"]) for a in alone]), rel=1e-5)
    assert float(together["coarse"]) > np.mean([float(a["coarse"]) for a in alone]) + 0.1


def test_views_of_one_patient_are_no_negatives_of_each_other() -> None:
    pairs = [pair(seed=0, frame=7), pair(seed=10, frame=7)]
    alone = [float(sam_losses([p], ALL)["coarse"]) for p in pairs]
    assert float(sam_losses(pairs, ALL)["coarse"]) == pytest.approx(np.mean(alone), rel=1e-6)


def test_the_bank_offers_rows_of_both_views_without_gradient() -> None:
    p = replace(pair(seed=4), frames=(3, 9))
    p.coarse.requires_grad_()
    bank = offered([p, pair(seed=5, frame=4)], replace(ALL, cross_negatives=200))
    assert bank.rows.shape == (400, 6)
    assert not bank.rows.requires_grad
    assert bank.frames.tolist() == [3] * 100 + [9] * 100 + [4] * 200
    for side in (0, 1):
        rows = bank.rows[100 * side : 100 * side + 100]
        assert (torch.cdist(rows, p.coarse[side]).min(1).values < 1e-3).all()
    foreign = bank.foreign(pair(frame=4), 50, seeded())
    assert foreign.shape == (50, 6)
    assert (torch.cdist(foreign, p.coarse.flatten(0, 1)).min(1).values < 1e-3).all(), "not of patient 4 itself"
    assert bank.foreign(replace(p, frames=(4, 3)), 50, seeded()) is not None
    assert Bank(bank.rows[200:], bank.frames[200:]).foreign(pair(frame=4), 50, seeded()) is None


def test_a_pair_costs_the_same_whoever_is_beside_it() -> None:
    """The random choices of a pair are its own, so that it does not matter which process works on it."""
    few = replace(ALL, fine_pool=12, fine_keep=5, coarse_pool=12, coarse_keep=5, cross_negatives=0)
    pairs = [pair(seed=s, frame=s) for s in (1, 2, 3)]
    bank = offered(pairs, replace(ALL, cross_negatives=40))
    options = replace(few, cross_negatives=10)
    together = sam_losses(pairs, options, bank)
    for name in ("fine", "coarse"):
        apart = np.mean([float(sam_losses([p], options, bank)[name]) for p in reversed(pairs)])
        assert float(together[name]) == pytest.approx(apart, rel=1e-5)


# --- the semantic loss ----------------------------------------------------------------------------------------------------------------


def semantic_restated(descriptors: Tensor, truth: Tensor, temperature: float) -> float:
    """UAE section 3.2 in plain loops, with what nobody said left out."""
    losses = []
    for k in range(truth.shape[1]):
        yes = [i for i in range(len(truth)) if truth[i, k] == 1]
        judged = [i for i in range(len(truth)) if truth[i, k] != 0]
        if len(yes) < 2 or len(judged) == len(yes):
            continue
        prototype = torch.stack([descriptors[i] for i in yes]).mean(0)
        score = {i: float(prototype @ descriptors[i]) / temperature for i in judged}
        everything = np.logaddexp.reduce(list(score.values()))
        losses.append(np.mean([everything - score[i] for i in yes]))
    return float(np.mean(losses))


def labelled(n: int = 40, structures: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    return unit(n, 8, seed=seed), torch.randint(-1, 2, (n, structures), generator=seeded(seed)).to(torch.int8)


def test_semantic_loss_equals_the_restatement() -> None:
    for seed in range(3):
        descriptors, truth = labelled(seed=seed)
        assert float(semantic_loss(descriptors, truth, 0.1)) == pytest.approx(semantic_restated(descriptors, truth, 0.1), rel=1e-4)


def test_what_nobody_said_takes_no_part_in_the_semantic_loss() -> None:
    descriptors, truth = labelled()
    truth[7] = 0
    descriptors.requires_grad_()
    loss = semantic_loss(descriptors, truth, 0.1)
    loss.backward()
    assert (descriptors.grad[7] == 0).all()
    assert (descriptors.grad.abs().sum(1) > 0).sum() > 35
    other = descriptors.detach().clone()
    other[7] = -other[7]
    assert float(semantic_loss(other, truth, 0.1)) == pytest.approx(loss.item(), rel=1e-6)


def test_a_structure_seen_once_or_against_nothing_is_not_judged() -> None:
    descriptors, truth = labelled(structures=3)
    truth[:, 1] = 0
    truth[3, 1], truth[4, 1] = 1, -1
    truth[:, 2] = (truth[:, 2] == 1).to(torch.int8)
    expected = semantic_loss(descriptors, truth[:, :1], 0.1)
    assert float(semantic_loss(descriptors, truth, 0.1)) == pytest.approx(float(expected), rel=1e-6)
    descriptors.requires_grad_()
    nothing = semantic_loss(descriptors, torch.zeros_like(truth), 0.1)
    assert nothing.item() == 0
    nothing.backward()
    assert (descriptors.grad == 0).all()


def test_semantic_loss_falls_when_a_structure_looks_alike_in_two_scans() -> None:
    ids = torch.arange(4).repeat(10)
    truth = torch.where(ids[:, None] == torch.arange(4), 1, -1).to(torch.int8)
    mean = unit(4, 8)[ids]
    apart, alike = (F.normalize(mean + s * unit(40, 8, seed=1), dim=1) for s in (2.0, 0.2))
    assert float(semantic_loss(alike, truth, 0.1)) < float(semantic_loss(apart, truth, 0.1)) - 0.5
    assert float(semantic_loss(mean, truth, 0.01)) == pytest.approx(np.log(10), abs=0.01), "ten equal points share the probability"


def test_better_descriptors_cost_less() -> None:
    p = pair(matched=5)
    good = replace(p, fine=p.fine.clone(), coarse=p.coarse.clone())
    good.fine[1, :5], good.coarse[1, :5] = good.fine[0, :5], good.coarse[0, :5]
    before, after = sam_losses([p], ALL), sam_losses([good], ALL)
    assert all(after[name] < before[name] for name in ("fine", "coarse"))

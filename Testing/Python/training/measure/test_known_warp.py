"""A known warp has its points inside both scans."""

from __future__ import annotations

import numpy as np
import pytest
from small_scans import small

from training.measure.evaluate import known_warp_cases

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun|GPU available).*")


def test_a_known_warp_has_its_points_inside_both_scans() -> None:
    scan = small("a")
    [case] = known_warp_cases([scan])
    assert len(case.points) == len(case.truth) > 20
    assert case.template.grid.contains(case.points).all()
    assert case.target.grid.contains(case.truth).all()
    assert case.target.grid.spacing_xyz.tolist() == pytest.approx([1.6, 1.4, 3.0])
    index, other = case.template.grid.world_to_index(case.points), case.target.grid.world_to_index(case.truth)
    same = [
        case.template.array[tuple(i)] - case.target.array[tuple(j)]
        for i, j in zip(index.round().astype(int), other.round().astype(int), strict=True)
    ]
    shuffled = [
        case.template.array[tuple(i)] - case.target.array[tuple(j)]
        for i, j in zip(index.round().astype(int), other[::-1].round().astype(int), strict=True)
    ]
    assert np.abs(same).mean() < 0.7 * np.abs(shuffled).mean(), "the truth shows the same tissue"

"""Points that scans of different patients have in common: the file, and both orders of a pair."""

from __future__ import annotations

from pathlib import Path

import torch

from training.scans.common_points import both_ways, read_common_points, write_common_points


def test_points_survive_the_file_pair_by_pair(tmp_path: Path) -> None:
    points = {("a", "b"): torch.rand(5, 6), ("a", "c"): torch.rand(2, 6), ("b", "c"): torch.empty(0, 6)}
    write_common_points(tmp_path / "new" / "between.npz", points)
    read = read_common_points(tmp_path / "new" / "between.npz")
    assert list(read) == list(points)
    assert all(torch.equal(read[k], v) for k, v in points.items())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["between.npz"], "nothing half-written stays"


def test_no_pair_at_all_is_a_file_too(tmp_path: Path) -> None:
    write_common_points(tmp_path / "between.npz", {})
    assert read_common_points(tmp_path / "between.npz") == {}


def test_both_ways_exchanges_fixed_and_moving_and_knows_scans_by_their_number() -> None:
    rows = torch.arange(12.0).reshape(2, 6)
    known = both_ways({("b", "a"): rows, ("a", "gone"): rows}, ["a", "b", "c"])
    assert set(known) == {(1, 0), (0, 1)}
    assert torch.equal(known[1, 0], rows)
    assert torch.equal(known[0, 1], rows[:, [3, 4, 5, 0, 1, 2]])

"""Tile plans: every voxel once, cells that coincide, reads that stay inside."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from UniversalAnatomicalEmbeddingLib.embedding.tiling import Size, Tile, plan_tiles

QUICK = settings(max_examples=80, deadline=None)
aligns = st.tuples(*[st.sampled_from([1, 4, 16])] * 3)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Size, Size, Size, Size]:
    """Shape, core, halo, align; the shape need not be a multiple of anything."""
    align = draw(aligns)
    shape = draw(st.tuples(*[st.integers(1, 70)] * 3))
    core = draw(st.tuples(*[st.integers(8, 80)] * 3))
    halo = tuple(draw(st.integers(0, 2)) * a for a in align)
    return shape, core, halo, align


@QUICK
@given(plan=plans())
def test_cores_cover_every_voxel_once(plan: tuple[Size, ...]) -> None:
    seen = np.zeros(plan[0], dtype=int)
    for tile in plan_tiles(*plan):
        seen[tile.core] += 1
    assert (seen == 1).all()


@QUICK
@given(plan=plans())
def test_cells_of_neighbouring_tiles_coincide(plan: tuple[Size, ...]) -> None:
    for tile in plan_tiles(*plan):
        assert all(s.start % a == 0 for box in (tile.core, tile.read) for s, a in zip(box, plan[3], strict=True))


@QUICK
@given(plan=plans())
def test_reads_are_cores_grown_by_the_halo_inside_the_scan(plan: tuple[Size, ...]) -> None:
    shape, _, halo, _ = plan
    for tile in plan_tiles(*plan):
        for read, core, h, n in zip(tile.read, tile.core, halo, shape, strict=True):
            assert 0 <= core.start < core.stop <= n
            assert (read.start, read.stop) == (max(0, core.start - h), min(n, core.stop + h))


@QUICK
@given(plan=plans())
def test_cores_are_equal_and_no_larger_than_asked(plan: tuple[Size, ...]) -> None:
    shape, core, _, align = plan
    tiles = plan_tiles(*plan)
    assert len(tiles) <= math.prod(-(-n // c) for n, c in zip(shape, core, strict=True))
    for axis in range(3):
        sizes = {t.core[axis].stop - t.core[axis].start for t in tiles if t.core[axis].stop < shape[axis]}
        assert len(sizes) <= 1
        assert max(t.core[axis].stop - t.core[axis].start for t in tiles) <= align[axis] * -(-core[axis] // align[axis])


@QUICK
@given(plan=plans(), data=st.data())
def test_stitched_maps_are_the_map_of_the_whole_scan(plan: tuple[Size, ...], data: st.DataObject) -> None:
    stride = tuple(data.draw(st.sampled_from([d for d in (1, 2, 4, 8, 16) if a % d == 0])) for a in plan[3])
    whole = np.random.default_rng(0).random([-(-n // k) for n, k in zip(plan[0], stride, strict=True)])
    stitched = np.full(whole.shape, np.nan)
    for tile in plan_tiles(*plan):
        part = whole[tile.source(stride)]
        assert part.shape == tuple(-(-(s.stop - s.start) // k) for s, k in zip(tile.read, stride, strict=True))
        stitched[tile.target(stride)] = part[tile.kept(stride)]
    np.testing.assert_array_equal(stitched, whole)


def test_plan_by_hand() -> None:
    tiles = plan_tiles((48, 16, 16), (20, 16, 16), (16, 16, 16), (16, 16, 16))
    whole = slice(0, 16)
    assert [t.core[0] for t in tiles] == [slice(0, 16), slice(16, 32), slice(32, 48)]
    assert tiles[1] == Tile((slice(0, 48), whole, whole), (slice(16, 32), whole, whole))
    assert tiles[1].kept((2, 4, 8)) == (slice(8, 16), slice(0, 4), slice(0, 2))
    assert tiles[2].kept((2, 4, 8)) == (slice(8, 16), slice(0, 4), slice(0, 2))
    assert tiles[2].target((2, 4, 8)) == (slice(16, 24), slice(0, 4), slice(0, 2))
    assert tiles[2].source((2, 4, 8)) == (slice(8, 24), slice(0, 4), slice(0, 2))


def test_scan_that_fits_is_one_tile() -> None:
    box = (slice(0, 10), slice(0, 20), slice(0, 30))
    assert plan_tiles((10, 20, 30), (10, 20, 30), (4, 4, 4), (4, 4, 4)) == [Tile(box, box)]

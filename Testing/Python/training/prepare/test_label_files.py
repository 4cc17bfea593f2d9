"""Label files of other sources land where they are in the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from label_samples import GRID, labels_of

from training.prepare.label_files import UNNAMED, collect, nearest
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, read_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

SCAN = Volume(np.zeros(GRID.shape_zyx, np.int16), GRID, "ct", "scan")


def test_one_file_per_organ_and_overlap_is_unsure(tmp_path: Path) -> None:
    masks = {name: np.zeros(GRID.shape_zyx) for name in ("liver", "spleen", "colon")}
    masks["liver"][:3], masks["spleen"][2:5] = 1, 1
    files = [labels_of(tmp_path / f"{n}.nii.gz", m) for n, m in masks.items()]
    values, names = collect(files, None, SCAN, tmp_path, GRID)
    assert names == {1: "liver", 2: "spleen", 3: "colon"}
    assert values[:, 0, 0].tolist() == [1, 1, UNNAMED, 2, 2, 0]


def test_one_map_with_a_table_and_ranges(tmp_path: Path) -> None:
    array = np.zeros(GRID.shape_zyx)
    array[0], array[1], array[2] = 63, 252, 8
    (tmp_path / "t.json").write_text('{"55-70": "liver", "240-255": "spleen"}')
    values, names = collect([labels_of(tmp_path / "m.nii.gz", array)], tmp_path / "t.json", SCAN, tmp_path, GRID)
    assert [names.get(int(v), v) for v in values[:4, 0, 0]] == ["liver", "spleen", UNNAMED, 0]


def test_labels_land_where_they_are_in_the_patient() -> None:
    """An oblique map with flipped axes, checked voxel by voxel against the definition of the nearest voxel."""
    rng = np.random.default_rng(0)
    affine = np.array([[-0.9, 0.3, 0.1, 9.0], [0.2, 1.1, -0.2, 1.0], [0.1, 0.2, -1.4, 8.0], [0, 0, 0, 1]])
    source = Volume(rng.integers(1, 60, (9, 11, 12)).astype(np.uint16), Grid((9, 11, 12), affine), name="m")
    found = nearest(source, GRID)
    index = source.grid.world_to_index(GRID.index_to_world(np.argwhere(np.ones(GRID.shape_zyx))))
    inside = ((index > -0.49) & (index < np.array(source.array.shape) - 0.51)).all(axis=1)
    sure = inside & (np.abs(index - np.floor(index) - 0.5) > 0.01).all(axis=1)
    assert sure.sum() > 50
    expected = source.array[tuple(np.rint(index[sure]).astype(int).T)]
    assert (found.ravel()[sure] == expected).all()
    assert (found.ravel()[((index < -0.6) | (index > np.array(source.array.shape) - 0.4)).any(axis=1)] == 0).all()


def test_a_map_that_lies_elsewhere_or_has_fractions_is_refused() -> None:
    far = GRID.affine.copy()
    far[:3, 3] += 500
    with pytest.raises(InputError, match="elsewhere"):
        nearest(Volume(np.ones(GRID.shape_zyx, np.uint8), Grid(GRID.shape_zyx, far), name="m"), GRID)
    with pytest.raises(InputError, match="fractional"):
        nearest(Volume(np.full(GRID.shape_zyx, 0.5, np.float32), GRID, name="m"), GRID)


@pytest.mark.parametrize("rising", [True, False])
def test_png_slices_follow_the_order_of_the_dicom_files(tmp_path: Path, rising: bool) -> None:
    heights = [3.0 + 5 * (k if rising else 4 - k) for k in range(5)]
    written = write_series(tmp_path / "DICOM_anon", positions=[(1.0, 2.0, h) for h in heights])
    (tmp_path / "Ground").mkdir()
    order = sorted(range(5), key=lambda k: written[k].name)
    for place, k in enumerate(order):
        plane = np.zeros((6, 7), np.uint8)
        plane[k] = 63
        sitk.WriteImage(sitk.GetImageFromArray(plane), str(tmp_path / "Ground" / f"liver_GT_{place:03d}.png"))
    (tmp_path / "t.json").write_text('{"1-255": "liver"}')
    scan = read_volume(tmp_path / "DICOM_anon", "ct")
    values, _ = collect([tmp_path / "Ground"], tmp_path / "t.json", scan, tmp_path / "DICOM_anon", scan.grid)
    for k in range(5):
        z = round(scan.grid.world_to_index([(1.0, 2.0, heights[k])])[0, 0])
        assert np.flatnonzero(values[z].any(axis=1)).tolist() == [k]
    next((tmp_path / "Ground").iterdir()).unlink()
    with pytest.raises(InputError, match="4 PNG images for 5"):
        collect([tmp_path / "Ground"], tmp_path / "t.json", scan, tmp_path / "DICOM_anon", scan.grid)

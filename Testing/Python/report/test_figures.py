"""Pictures: radiological convention whatever the orientation of the scan, and reports of a sane size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.matching import Match
from UniversalAnatomicalEmbeddingLib.report.evaluation import Outcome
from UniversalAnatomicalEmbeddingLib.report.figures import (
    CT_WINDOW_HU,
    Row,
    checkerboard,
    display_window,
    error_report,
    match_report,
    plane_image,
    verdict,
)

CENTRE = np.array([10.0, -20.0, 30.0])


def affine(rotation_deg: tuple[float, float, float], spacing_xyz: tuple[float, float, float], flips: tuple[int, int, int]) -> np.ndarray:
    """Index-to-LPS of a scan of 60 x 50 x 40 voxels around CENTRE."""
    linear = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix() @ np.diag(np.multiply(spacing_xyz, flips))
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = CENTRE - linear @ [29.5, 24.5, 19.5]
    return matrix


ORIENTATIONS = {
    "axial": affine((0, 0, 0), (1.0, 1.0, 1.0), (1, 1, 1)),
    "all axes flipped, unequal spacing": affine((0, 0, 0), (1.1, 1.2, 2.5), (-1, -1, -1)),
    "oblique": affine((15, -20, 70), (1.2, 0.9, 2.0), (1, -1, 1)),
}


def showing(axis: int, matrix: np.ndarray) -> Volume:
    """A scan whose voxel value is its own LPS coordinate along ``axis``."""
    grid = Grid((40, 50, 60), matrix)
    points = grid.index_to_world(np.indices(grid.shape_zyx).reshape(3, -1).T)
    return Volume(points[:, axis].reshape(grid.shape_zyx).astype(np.float32), grid, "mr")


@pytest.mark.parametrize("matrix", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
@pytest.mark.parametrize(
    ("plane", "columns", "rows"),
    [
        ("axial", np.array([1, 0, 0]), np.array([0, 1, 0])),  # to the patient's left; to posterior
        ("coronal", np.array([1, 0, 0]), np.array([0, 0, -1])),  # to the patient's left; to the feet
        ("sagittal", np.array([0, 1, 0]), np.array([0, 0, -1])),  # to posterior; to the feet
    ],
)
def test_every_pixel_shows_its_own_place_in_the_patient(matrix: np.ndarray, plane: str, columns: np.ndarray, rows: np.ndarray) -> None:
    offset = np.arange(-10.0, 11.0)
    expected = CENTRE + offset[None, :, None] * columns + offset[:, None, None] * rows
    for axis in range(3):
        image = plane_image(showing(axis, matrix), CENTRE, plane, size_mm=20.0)
        assert image.shape == (21, 21)
        np.testing.assert_allclose(image, expected[..., axis], atol=1e-3)


def test_an_asymmetric_patient_lies_the_right_way_round() -> None:
    """The liver on the patient's right comes on the left of the picture, the spine at the bottom, the head on top of a coronal cut."""
    grid = Grid((40, 50, 60), ORIENTATIONS["oblique"])
    x, y, z = (grid.index_to_world(np.indices(grid.shape_zyx).reshape(3, -1).T) - CENTRE).T.reshape(3, *grid.shape_zyx)
    liver = Volume(((x < -3) * 100.0).astype(np.float32), grid)
    spine = Volume(((y > 3) * 100.0).astype(np.float32), grid)
    head = Volume(((z > 3) * 100.0).astype(np.float32), grid)
    axial, coronal = plane_image(liver, CENTRE, "axial", 20.0), plane_image(head, CENTRE, "coronal", 20.0)
    assert axial[:, :6].min() > 90
    assert axial[:, 12:].max() < 10
    assert plane_image(spine, CENTRE, "axial", 20.0)[15:].min() > 90
    assert coronal[:6].min() > 90
    assert coronal[15:].max() < 10


def test_outside_the_field_of_view_is_nan_and_its_border_is_not() -> None:
    volume = showing(0, ORIENTATIONS["axial"])
    image = plane_image(volume, CENTRE, "axial", 140.0)
    assert image.shape == (141, 141)
    assert np.isnan(image).any(axis=1).all()
    inside = np.abs(np.arange(-70, 71)) <= 25
    assert np.isfinite(image[inside][:, np.abs(np.arange(-70, 71)) <= 30]).all()
    assert np.isnan(image[~inside]).all()


def test_a_point_outside_the_scan_gives_an_empty_picture() -> None:
    assert np.isnan(plane_image(showing(0, ORIENTATIONS["oblique"]), CENTRE + 1000, "coronal", 20.0)).all()


def test_integer_voxels_are_shown_too() -> None:
    grid = Grid((40, 50, 60), ORIENTATIONS["axial"])
    volume = Volume(np.full(grid.shape_zyx, 7, np.int16), grid, "ct")
    np.testing.assert_array_equal(plane_image(volume, CENTRE, "axial", 10.0), np.full((11, 11), 7, np.float32))


def test_cutting_a_plane_copies_no_volume() -> None:
    grid = Grid((300, 200, 200), ORIENTATIONS["axial"])
    volume = Volume(np.zeros(grid.shape_zyx, np.int16), grid, "mr")
    tracemalloc.start()
    plane_image(volume, CENTRE, "axial", 20.0)
    display_window(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume.array.nbytes


def test_ct_has_a_fixed_window_and_mr_its_percentiles() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    ramp = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    assert display_window(Volume(ramp, grid, "ct")) == CT_WINDOW_HU
    assert display_window(Volume(ramp, grid, "mr")) == pytest.approx((9.99, 994.0), abs=0.1)
    low, high = display_window(Volume(np.zeros((10, 10, 10), np.float32), grid, "mr"))
    assert high > low


# --- reports --------------------------------------------------------------------------------------------------------------------------


def match(status: str = "found", confidence: float = 0.83) -> Match:
    figures = {
        "similarity": 0.91,
        "coarse": 0.9,
        "margin": 0.1,
        "cycle_mm": 1.0,
        "spread_mm": 2.0,
        "beyond_mm": 0.0,
        "support": 0.5,
        "inside_mm": 30.0,
    }
    return Match(point_lps=CENTRE + 3, **figures, confidence=confidence, status=status)


def test_verdict_in_words() -> None:
    assert verdict(match()) == "found, 83 %"
    assert verdict(match("absent")) == "absent"
    assert verdict(match("uncertain", np.nan)) == "uncertain, similarity 0.91"


def test_match_report_is_a_picture_that_grows_with_rows_and_targets(tmp_path: Path) -> None:
    template, target = showing(0, ORIENTATIONS["axial"]), showing(1, ORIENTATIONS["oblique"])
    row, rest = Row("carina", CENTRE, [match(), match("absent")]), Row("left_apex", CENTRE, [match("uncertain", np.nan), match()])
    match_report(template, [target], [Row("carina", CENTRE, [match()])], tmp_path / "small.png")
    match_report(template, [target, target], [row, rest], tmp_path / "large.png")
    small, large = imread(tmp_path / "small.png"), imread(tmp_path / "large.png")
    for image in (small, large):
        assert 200 < image.shape[0] < 1000
        assert 700 < image.shape[1] < 2000
        assert image[..., :3].std() > 0.05, "not blank"
    assert large.shape[0] > small.shape[0]
    assert large.shape[1] > small.shape[1]
    assert {p.name for p in tmp_path.iterdir()} == {"small.png", "large.png"}


def test_error_report_is_a_picture_and_knows_absent_queries_and_unread_scans(tmp_path: Path) -> None:
    volumes = {"a": showing(0, ORIENTATIONS["axial"]), "b": showing(2, ORIENTATIONS["oblique"])}
    outcomes = [
        Outcome("a", "b", "carina", CENTRE, match(), CENTRE),
        Outcome("a", "b", "apex", CENTRE, match("absent"), CENTRE + 20),
        Outcome("a", "b", "kidney", CENTRE, match("absent"), None),
        Outcome("a", "unread", "carina", CENTRE, match("uncertain"), CENTRE - 30),
    ]
    error_report(outcomes, volumes, tmp_path / "errors.png")
    image = imread(tmp_path / "errors.png")
    assert 500 < image.shape[0] < 1500
    assert 1200 < image.shape[1] < 2000
    assert image[..., :3].std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["errors.png"]


def test_error_report_of_absent_queries_alone_says_so(tmp_path: Path) -> None:
    error_report([Outcome("a", "b", "kidney", CENTRE, match("absent"), None)], {}, tmp_path / "errors.png")
    assert imread(tmp_path / "errors.png")[..., :3].std() > 0.02


def test_error_report_shows_at_most_the_worst(tmp_path: Path) -> None:
    volumes = {"a": showing(0, ORIENTATIONS["axial"])}
    outcomes = [Outcome("a", "a", f"p{i}", CENTRE, match(), CENTRE + i) for i in range(6)]
    error_report(outcomes, volumes, tmp_path / "two.png", worst=2)
    error_report(outcomes, volumes, tmp_path / "four.png", worst=4)
    assert imread(tmp_path / "two.png").shape[0] < imread(tmp_path / "four.png").shape[0]


def test_the_checkerboard_shows_the_fixed_scan_at_the_upper_left_and_the_other_beside_it(tmp_path: Path) -> None:
    grid = Grid((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    bright, dark = (Volume(np.full(grid.shape_zyx, value, np.int16), grid, "ct") for value in (400, -600))
    checkerboard(bright, {"before": dark, "after": bright}, np.array([39.0, 39, 39]), tmp_path / "board.png")
    picture = imread(tmp_path / "board.png")[..., 0]
    height, width = picture.shape
    row = picture[: height // 2]
    square = width // 3 // 8
    below_title = row.shape[0] - 8 * square + square // 2
    assert row[below_title, square // 2] > 0.9
    assert row[below_title, 3 * square // 2] < 0.1
    after = picture[height - square // 2, width // 3 // 16 :: square][:8]
    assert (after > 0.9).all()
    assert [p.name for p in tmp_path.iterdir()] == ["board.png"]


def test_of_a_picture_that_could_not_be_drawn_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(figure: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half a picture")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        checkerboard(showing(0, ORIENTATIONS["axial"]), {"same": showing(0, ORIENTATIONS["axial"])}, CENTRE, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []

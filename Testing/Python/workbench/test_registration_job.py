"""Registration results in a real scene: directions, frames, undo, errors of landmarks, preview."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from fake_engine import FakeEngine  # noqa: E402
from job_client import Client  # noqa: E402
from registration_report import REPORT  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import FloatArray, Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.mrml import transforms, views  # noqa: E402
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions  # noqa: E402
from UniversalAnatomicalEmbeddingLib.registration import Transform, write_transform  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.registration_job import Registering  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.workbench import Workbench  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker.client import Cancelled, Done, Failed, Progress  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker.desk import Desk  # noqa: E402

POINTS = np.random.default_rng(0).uniform(20, 90, (20, 3))


class Theatre:
    """A fixed and a moving volume (with different grids), a workbench, a registration that the test answers."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        rng = np.random.default_rng(1)
        self.fixed = self.add("F", rng.normal(size=(30, 32, 34)), [3.0, 3.5, 4.0])
        self.moving = self.add("M", rng.normal(size=(40, 41, 42)), [2.5, 3.0, 2.0])
        self.bench, self.client = Workbench(self.scene), Client()
        self.desk = Desk(self.client)
        self.registering = Registering(self.bench, self.desk)

    def add(self, name: str, array: np.ndarray, spacing: list[float]) -> Any:
        array = array.astype(np.float32)
        return mrml.volume_to_node(self.scene, Volume(array, Grid(array.shape, np.diag([*spacing, 1.0])), "ct", name))

    def put_under(self, node: Any, angles: tuple[float, ...], shift: tuple[float, ...]) -> Any:
        transform = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", "pose")
        transform.SetMatrixTransformToParent(mrml.frames._vtk(rigid(angles, shift)))
        node.SetAndObserveTransformNodeID(transform.GetID())
        return transform

    def register(self, transform: Transform, **report: Any) -> Any:
        """Ask, and answer with this transform."""
        self.registering.start(self.fixed, self.moving, RegisterOptions(stage="rigid"))
        job = self.client.jobs[-1]
        write_transform(transform, job["out"])
        self.client.events = [Done(len(self.client.jobs), {"transform": job["out"], "report": {**REPORT, **report}, "notice": ""})]
        self.desk.poll()
        return job


@pytest.fixture
def t() -> Iterator[Theatre]:
    made = Theatre()
    yield made
    made.bench.close()


def rigid(angles: tuple[float, ...], shift: tuple[float, ...]) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


TRUTH = Transform(rigid((20, -35, 50), (12, -25, 40)))


def field(matrix: FloatArray = TRUTH.matrix) -> Transform:
    """A smooth displacement on an oblique grid around everything, then a rotation."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix() * [12.0, 11.0, 10.0]
    affine[:3, 3] = [-150, -200, -150]
    grid = Grid((38, 37, 36), affine)
    at = grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx)))
    u = np.stack([6 * np.sin(at[:, 1] / 30), 5 * np.cos(at[:, 2] / 25), 7 * np.sin(at[:, 0] / 35)], axis=1)
    return Transform(matrix, u.reshape(*grid.shape_zyx, 3), grid)


def world_of_moving(t: Theatre, moving_scan: FloatArray, pose_then: FloatArray) -> FloatArray:
    """Where the scene now shows points that lay here in the moving scan."""
    return mrml.to_world(t.moving, moving_scan @ np.linalg.inv(pose_then)[:3, :3].T + np.linalg.inv(pose_then)[:3, 3])


@pytest.mark.parametrize("transform", [TRUTH, field()], ids=["rigid", "deformable"])
@pytest.mark.parametrize("posed", [False, True], ids=["at rest", "under rotating transforms"])
def test_the_moving_volume_comes_to_lie_on_the_fixed_one(t: Theatre, transform: Transform, posed: bool) -> None:
    if posed:
        t.put_under(t.fixed, (15, 25, -40), (5, -6, 30))
        t.put_under(t.moving, (-30, 10, 70), (50, 20, -10))
    poses = mrml.pose(t.fixed), mrml.pose(t.moving)
    job = t.register(transform)
    assert job["job"] == "register" and job["fixed"].name == "F" and job["moving"].name == "M" and job["options"]["stage"] == "rigid"
    fixed_scan = POINTS @ poses[0][:3, :3].T + poses[0][:3, 3] if posed else POINTS
    moving_scan = transform(fixed_scan)
    assert np.abs(world_of_moving(t, moving_scan, poses[1]) - fixed_scan).max() < 0.02, "fixed world = fixed scan, as it has not moved"
    node = t.registering.outcome.node
    assert t.moving.GetTransformNodeID() == node.GetID() and node.GetTransformNodeID() == t.fixed.GetTransformNodeID()
    assert mrml.attribute(node, "Fixed") == "F" and mrml.attribute(node, "Stage") == "rigid"
    assert not Path(job["out"]).exists() and not Path(job["out"]).parent.exists()


def test_it_follows_the_fixed_volume_when_that_is_moved(t: Theatre) -> None:
    t.register(TRUTH)
    t.put_under(t.fixed, (15, 25, -40), (5, -6, 30))
    t.registering.outcome.node.SetAndObserveTransformNodeID(t.fixed.GetTransformNodeID())
    assert np.abs(world_of_moving(t, TRUTH(POINTS), np.eye(4)) - mrml.to_world(t.fixed, POINTS)).max() < 1e-6


def test_the_resampled_moving_volume_agrees_with_the_core(t: Theatre) -> None:
    fixed, moving = mrml.volume_from_node(t.fixed), mrml.volume_from_node(t.moving)
    mild = rigid((10, -8, 12), (5, -4, 8))
    for transform in (Transform(mild), field(mild)):
        t.register(transform)
        found, shown, index_to_ras = transforms.resampled(t.moving, t.fixed)
        expected = transform.resample(moving, fixed.grid).array
        inside = moving.grid.contains(transform(fixed.grid.index_to_world(np.argwhere(np.ones(found.shape))))).reshape(found.shape)
        deep = inside & np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 2)
        assert deep.sum() > 1000 and np.abs(found - expected)[deep].max() < 0.02
        assert np.array_equal(shown, fixed.array) and np.allclose(mrml.FLIP @ index_to_ras, fixed.grid.affine)
        t.registering.undo()


@pytest.mark.parametrize("step", [1, 2])
def test_resampling_goes_through_both_transforms_and_thins_out_a_large_grid(t: Theatre, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    t.put_under(t.fixed, (10, -8, 12), (5, -4, 8))
    t.put_under(t.moving, (-20, 9, 30), (3, 20, -5))
    fixed, moving = mrml.volume_from_node(t.fixed), mrml.volume_from_node(t.moving)
    monkeypatch.setattr(transforms, "MOST_VOXELS", fixed.array.size // (step**3 - step + 1))
    found, shown, index_to_ras = transforms.resampled(t.moving, t.fixed)
    assert np.array_equal(shown, fixed.array[::step, ::step, ::step])
    grid = Grid(found.shape, fixed.grid.affine @ np.diag([step, step, step, 1.0]))
    assert np.allclose(mrml.pose(t.fixed) @ mrml.FLIP @ index_to_ras, grid.affine)
    index = moving.grid.world_to_index(grid.index_to_world(np.argwhere(np.ones(found.shape))))
    inside = ((index >= 0) & (index <= np.array(moving.array.shape) - 1)).all(axis=1)
    expected = Transform(np.eye(4)).resample(moving, grid).array.ravel()[inside]
    assert len(expected) > 1000 and np.abs(found.ravel()[inside] - expected).max() < 0.02


def test_undo_puts_the_moving_volume_back_even_after_registering_twice(t: Theatre) -> None:
    before = t.put_under(t.moving, (-30, 10, 70), (50, 20, -10))
    t.register(TRUTH)
    t.register(Transform(np.eye(4)))
    t.registering.undo()
    assert t.moving.GetTransformNodeID() == before.GetID()
    assert t.scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 3, "the transforms stay"
    assert t.registering.outcome is None and "undone" in t.registering.text


def test_failures_cancelling_and_wrong_choices_are_sentences(t: Theatre) -> None:
    with pytest.raises(InputError, match="not the same"):
        t.registering.start(t.fixed, t.fixed, RegisterOptions())
    with pytest.raises(InputError, match="not the same"):
        t.registering.start(t.fixed, None, RegisterOptions())
    t.registering.start(t.fixed, t.moving, RegisterOptions())
    with pytest.raises(InputError, match="under way"):
        t.registering.start(t.fixed, t.moving, RegisterOptions())
    t.client.events = [Progress(1, 0.4, "matching keypoints", 12.0)]
    t.desk.poll()
    assert t.registering.text == "matching keypoints 40%, 12 s left"
    t.registering.cancel()
    t.client.events = [Cancelled(1)]
    t.desk.poll()
    assert t.client.cancelled == [1] and not t.registering.busy and t.registering.text == "Cancelled."
    t.registering.start(t.fixed, t.moving, RegisterOptions())
    t.client.events = [Failed(2, "The scans show no common anatomy.")]
    t.desk.poll()
    assert t.registering.text == "The scans show no common anatomy." and t.moving.GetTransformNodeID() is None


def test_a_volume_closed_meanwhile(t: Theatre) -> None:
    t.registering.start(t.fixed, t.moving, RegisterOptions())
    write_transform(TRUTH, t.client.jobs[0]["out"])
    t.scene.RemoveNode(t.moving)
    t.client.events = [Done(1, {"transform": "", "report": REPORT, "notice": ""})]
    t.desk.poll()
    assert "closed" in t.registering.text and t.registering.outcome is None


def settled(t: Theatre) -> None:
    """Four landmarks of F, each settled in M where the truth has it, one of them 3 mm off; a fifth is only proposed."""
    engine = FakeEngine()
    t.bench.use_engine(engine, {})
    for node in (t.fixed, t.moving):
        snapshot = t.bench.scans.snapshot(node.GetID())
        t.bench.ready(node.GetID(), snapshot, snapshot.volume)
    poses = mrml.pose(t.fixed), mrml.pose(t.moving)
    for i, point in enumerate(POINTS[:5]):
        key = t.bench.add(f"p{i}", mrml.world_from_scan(t.fixed, poses[0], point)[0])
        if i < 4:
            t.bench.correct(key, t.moving.GetID(), mrml.world_from_scan(t.moving, poses[1], TRUTH(point))[0] + [0, 0, 3.0 * (i == 3)])


def test_accepted_landmarks_are_the_source_and_the_measure(t: Theatre) -> None:
    t.put_under(t.moving, (-30, 10, 70), (50, 20, -10))
    settled(t)
    t.registering.start(t.fixed, t.moving, RegisterOptions(stage="rigid"), "accepted landmarks")
    fixed, moving = map(np.array, t.client.jobs[-1]["landmarks"])
    assert (
        len(fixed) == 4 and np.abs(TRUTH(fixed) - moving)[:3].max() < 1e-6 and abs(np.linalg.norm(TRUTH(fixed)[3] - moving[3]) - 3) < 1e-6
    )
    t.client.events = [Cancelled(1)]
    t.desk.poll()
    before = t.registering.errors(t.fixed, t.moving)
    assert [row[0] for row in before] == ["p0", "p1", "p2", "p3"] and all(row[2] is None for row in before)
    t.register(TRUTH)
    rows = t.registering.errors(t.fixed, t.moving)
    assert [row[1] for row in rows] == pytest.approx([row[1] for row in before])
    assert [row[2] for row in rows] == pytest.approx([0, 0, 0, 3], abs=1e-6)
    t.bench.reject(t.bench.presenter.table.keys[0], t.moving.GetID())
    t.bench.reject(t.bench.presenter.table.keys[1], t.moving.GetID())
    with pytest.raises(InputError, match="corrected in both volumes: 2; at least 3"):
        t.registering.start(t.fixed, t.moving, RegisterOptions(), "accepted landmarks")


def test_preview(t: Theatre) -> None:
    view = t.scene.AddNode(slicer.vtkMRMLSliceNode())
    view.SetLayoutName("V")
    composite = t.scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
    composite.SetLayoutName("V")
    composite.SetBackgroundVolumeID(t.fixed.GetID())
    for node, low, high in ((t.fixed, -2.0, 2.0), (t.moving, -4.0, 4.0)):
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(low, high)
    t.registering.preview("fade", t.fixed, t.moving, 0.3)
    assert composite.GetForegroundVolumeID() == t.moving.GetID() and composite.GetForegroundOpacity() == pytest.approx(0.3)
    found, shown, _ = transforms.resampled(t.moving, t.fixed)
    moving, fixed = (found / 8 + 0.5).clip(0, 1), (shown / 4 + 0.5).clip(0, 1)
    t.registering.preview("reveal", t.fixed, t.moving, 0.5)
    mixed = slicer.util.arrayFromVolume(t.scene.GetNodeByID(composite.GetForegroundVolumeID()))
    assert np.allclose(mixed[:, :, :17], fixed[:, :, :17], atol=1e-6) and np.allclose(mixed[:, :, 17:], moving[:, :, 17:], atol=1e-6)
    t.registering.preview("checkerboard", t.fixed, t.moving, 0.5)
    node = t.scene.GetNodeByID(composite.GetForegroundVolumeID())
    mixed = slicer.util.arrayFromVolume(node)
    assert np.allclose(mixed[0, 0, 0], moving[0, 0, 0], atol=1e-6) and np.allclose(mixed[0, 0, 11], fixed[0, 0, 11], atol=1e-6)
    assert np.allclose(mixed[8, 0, 0], fixed[8, 0, 0], atol=1e-6) and np.allclose(mixed[8, 0, 11], moving[8, 0, 11], atol=1e-6)
    assert composite.GetForegroundOpacity() == 1.0 and set(t.bench.presenter.volumes) == {t.fixed.GetID(), t.moving.GetID()}
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    assert matrix.GetElement(0, 0) == pytest.approx(-3.0)
    t.registering.preview("none", t.fixed, t.moving, 0.5)
    assert composite.GetForegroundVolumeID() is None and not t.scene.IsNodePresent(node)
    assert views.views_of(t.scene, t.fixed) == [view]


def test_a_mixed_preview_lies_on_a_fixed_volume_that_was_moved(t: Theatre) -> None:
    t.put_under(t.fixed, (15, 25, -40), (5, -6, 30))
    t.registering.preview("checkerboard", t.fixed, t.moving, 0.5)
    shown = mrml.volume_from_node(t.registering._preview)
    assert np.allclose(shown.grid.affine, mrml.volume_from_node(t.fixed).grid.affine)
    t.registering.preview("none", t.fixed, t.moving, 0.5)

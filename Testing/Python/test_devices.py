"""Everything that runs on a GPU, on a pretended one: nothing mixes devices, and the answers are those of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from positions import carried, coded_scan, lps_grid, motion
from pretended_device import Generator, Pretended, pretended
from samples import tiny_model, tissue_volume
from searchables import inner_points, synthetic
from torch import Tensor
from training_scene import RATE, labelled_scan, scene, semantic_module

from training.batches.places import Chooser
from training.batches.stream import PairStream
from training.learning.callbacks import LandmarkError
from training.learning.losses import SemanticOptions
from UniversalAnatomicalEmbeddingLib.embedding.cache import Cache
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.matching import Calibration, Match, Searchable, match_points
from UniversalAnatomicalEmbeddingLib.matching.confidence import FEATURES
from UniversalAnatomicalEmbeddingLib.models.model import save_model
from UniversalAnatomicalEmbeddingLib.options import MatchOptions, RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import (
    Registration,
    Scan,
    read_transform,
    register_scans,
)
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system.diagnostics import probe_device
from UniversalAnatomicalEmbeddingLib.system.progress import silent
from UniversalAnatomicalEmbeddingLib.worker.jobs import Jobs
from UniversalAnatomicalEmbeddingLib.worker.messages import stage

__all__ = ["pretended"]  # the fixture
MIXED = "Expected all tensors to be on the same device"

# --- the pretended device -------------------------------------------------------------------------------------------------------------


def test_tensors_go_there_in_every_way_and_come_back(pretended: str) -> None:
    there = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=pretended)
    made = [
        torch.as_tensor(np.ones(3), device=pretended),
        torch.from_numpy(np.ones(3)).to(pretended, torch.float32),
        torch.ones(3).to(there),
        torch.nn.Linear(2, 2).to(pretended).weight,
        there.new_tensor(3),
        there[0] + there.new_zeros(2),
    ]
    assert all(isinstance(t, Pretended) and t.device == torch.device(pretended) for t in made)
    assert there.cpu().device.type == "cpu" and not isinstance(there.cpu(), Pretended)
    assert there.tolist() == there.cpu().numpy().tolist() == [[1, 2], [3, 4]]
    assert (float(there.sum()), int(there.argmax()), bool((there > 9).any())) == (10.0, 3, False)


def test_in_place_operations_and_gradients_work_there(pretended: str) -> None:
    there = torch.ones(2, 2, device=pretended)
    kept = there
    there += 1
    there[:, 1:].copy_(torch.zeros(2, 1))
    assert kept is there and there.tolist() == [[2, 0], [2, 0]]
    layer = torch.nn.Linear(2, 1).to(pretended)
    layer(there).sum().backward()
    assert isinstance(layer.weight.grad, Pretended) and layer.weight.grad.tolist() == [[4, 0]]


@pytest.mark.parametrize("without_gradients", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "mixing",
    [
        lambda there: there @ torch.ones(2, 2),
        lambda there: torch.cat([there, torch.empty(0, 2)]),
        lambda there: torch.stack([there[0, 0], torch.tensor(1.0)]),
        lambda there: torch.where(there > 0, torch.ones(2, 2), 0.0),
        lambda there: torch.ones(2, 2)[there.long()],
        lambda there: torch.nn.functional.conv1d(there[None], torch.ones(2, 2, 1)),
    ],
    ids=["product", "empty", "list", "where", "indexed", "convolution"],
)
def test_what_cuda_refuses_is_refused(pretended: str, without_gradients: Any, mixing: Callable[[Tensor], Tensor]) -> None:
    with without_gradients(), pytest.raises(RuntimeError, match=MIXED):
        mixing(torch.ones(2, 2, device=pretended))


def test_arrays_and_generators_of_the_other_device_are_refused(pretended: str) -> None:
    there = torch.ones(2, device=pretended)
    for convert in (lambda t: t.numpy(), np.asarray):
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            convert(there)
    torch.randn(2, generator=Generator(there.device).manual_seed(1), device=there.device)
    for generator, device in ((Generator(), pretended), (Generator(pretended), "cpu")):
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.randn(2, generator=generator, device=device)


def test_what_cuda_takes_is_taken(pretended: str) -> None:
    there = torch.ones(2, 2, device=pretended)
    assert (there * torch.tensor(3.0)).tolist() == [[3, 3], [3, 3]], "single numbers"
    assert there[torch.tensor([1])].tolist() == [[1, 1]], "indices"


# --- matching -------------------------------------------------------------------------------------------------------------------------

SHIFT = np.array([9.3, -5.1, 7.7])
CELLS = (12, 14, 16)
TEMPLATE, TARGET = synthetic(cells=CELLS), synthetic(lambda p: p - SHIFT, cells=CELLS, name="target")
OTHER = synthetic(lambda p: p + SHIFT, cells=CELLS, name="other")
POINTS = inner_points(8, 1, 20.0, TEMPLATE)
DOUBTFUL = Calibration((1.0, *[0.0] * len(FEATURES)), (0.0, 0.0, 40.0, *[0.0] * (len(FEATURES) - 3), -8.0), 0.5)  # some absent, some found


def on(device: str, scan: Searchable, **changes: Any) -> Searchable:
    return Searchable(replace(scan.embedding, **changes), device)


def figures(matches: list[Match]) -> np.ndarray:
    numbers = ("similarity", "coarse", "margin", "cycle_mm", "spread_mm", "beyond_mm", "support", "inside_mm", "confidence")
    return np.array([[*m.point_lps, *(getattr(m, n) for n in numbers)] for m in matches])


def assert_same(found: list[Match], expected: list[Match], tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(figures(found), figures(expected), atol=tolerance)
    assert [(m.status, m.note) for m in found] == [(m.status, m.note) for m in expected]


@pytest.mark.parametrize("method", ["nn", "fixed-point"])
@pytest.mark.parametrize("way", ["guided", "exact", "compat"])
def test_points_are_matched(pretended: str, method: Any, way: str) -> None:
    options = MatchOptions(method, exact=way == "exact", compat=way == "compat", anchor_reach=1)
    points = POINTS[:2] if method == "fixed-point" else POINTS
    pipeline = "published" if options.compat else "standard"
    expected, found = (
        match_points([(on(d, TEMPLATE, pipeline=pipeline), points)], on(d, TARGET, pipeline=pipeline), options, DOUBTFUL)
        for d in ("cpu", pretended)
    )
    assert_same(found, expected)
    assert way == "compat" or np.linalg.norm(np.stack([m.point_lps for m in found]) - points - SHIFT, axis=1).max() < 2


def test_points_of_several_templates_are_matched(pretended: str) -> None:
    exemplars = ((TEMPLATE, POINTS), (OTHER, POINTS - SHIFT))
    expected, found = (match_points([(on(d, s), p) for s, p in exemplars], on(d, TARGET)) for d in ("cpu", pretended))
    assert_same(found, expected)


def test_more_landmarks_take_no_more_round_trips(pretended: str) -> None:
    """Each time numbers are fetched from a GPU, it runs dry; so one batch of landmarks fetches as often as one landmark."""
    template, target = on(pretended, TEMPLATE), on(pretended, TARGET)
    trips = []
    for count in (1, 1, len(POINTS)):  # the first one finds the anchors too
        before = Pretended.fetched
        match_points([(template, POINTS[:count])], target)
        trips.append(Pretended.fetched - before)
    assert trips[2] == trips[1] < 40


def test_a_session_embeds_matches_and_shows_similarities(pretended: str) -> None:
    volumes = tissue_volume((32, 48, 32)), tissue_volume((48, 32, 32), name="other")
    point = np.array([[-10.0, 40.0, 430.0]])
    answers = []
    for device in ("cpu", pretended):
        session = Session(tiny_model(), device)
        template, target = (session.embed(v) for v in volumes)
        assert template.rows.device == torch.device(device)
        session.warm(template, target)
        maps = template.embedding.fine, template.embedding.coarse, session.similarity(template, point[0], target)[0]
        answers.append((session.match(template, point, target), maps))
    (expected, those), (found, these) = answers
    assert_same(found, expected)
    for a, b in zip(these, those, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_scans_on_mps_are_searched_on_the_cpu() -> None:
    assert on("mps", TEMPLATE).device == torch.device("cpu")


# --- registration ---------------------------------------------------------------------------------------------------------------------

TRUTH = motion((1, 0, 1), (5, -4, 3), scale=1.05)
FIXED = coded_scan(lps_grid((-76, -56, -96), (152, 112, 192), 4.0), lambda p: p, "fixed")
MOVING = coded_scan(lps_grid((-90, -70, -110), (190, 150, 220), 4.0), lambda p: carried(np.linalg.inv(TRUTH), p), "moving")


def registered(device: str, options: RegisterOptions) -> Registration:
    grids = FIXED.embedding.grid, MOVING.embedding.grid
    fixed, moving = (
        Scan(Volume(np.zeros(g.shape_zyx, np.int16), g, "ct", s.embedding.name), on(device, s))
        for g, s in zip(grids, (FIXED, MOVING), strict=True)
    )
    return register_scans(fixed, moving, lambda volume: moving.searchable, options)


@pytest.mark.parametrize("stage", ["rigid", "affine", "deformable"])
def test_scans_are_registered(pretended: str, stage: Any) -> None:
    options = RegisterOptions(stage, inverse_consistent=True, keypoints=200, field_mm=24.0)
    expected, found = (registered(d, options) for d in ("cpu", pretended))
    np.testing.assert_allclose(found.transform.matrix, expected.transform.matrix, atol=1e-4)
    if stage == "deformable":
        np.testing.assert_allclose(found.transform.displacement, expected.transform.displacement, atol=0.02)


# --- worker ---------------------------------------------------------------------------------------------------------------------------


def test_the_worker_embeds_and_registers(pretended: str, tmp_path: Path) -> None:
    save_model(tiny_model(("ct",)), tmp_path / "tiny.safetensors")
    assert probe_device(pretended).note == ""
    settings = {"model": str(tmp_path / "tiny.safetensors"), "device": pretended, "cache": str(tmp_path / "cache")}
    volume, jobs = tissue_volume((32, 40, 36)), Jobs()
    result = jobs.run("embed", stage({"volume": volume}, tmp_path, 1) | settings, silent, Event())
    embedding = Cache(Path(result["cache"])).load(result["key"], result["name"])
    assert result["device"] == pretended and embedding is not None
    np.testing.assert_allclose(embedding.fine, Session(settings["model"], "cpu").embed(volume).embedding.fine, atol=1e-3)
    both = stage({"fixed": volume, "moving": volume}, tmp_path, 2)
    jobs.run("register", {**both, **settings, "out": str(tmp_path / "t.h5"), "options": {"stage": "rigid"}}, silent, Event())
    np.testing.assert_allclose(read_transform(tmp_path / "t.h5").matrix, np.eye(4), atol=2.0)  # noise has little to hold on to


# --- training -------------------------------------------------------------------------------------------------------------------------

SOMETIMES = ("elastic", "truncate", "thick_slice", "blur", "remap", "remap_own_range", "bias", "table", "metal", "mirror")
ALWAYS = {f"{what}_p": 1.0 for what in SOMETIMES}


def trained(device: str, resident: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, all gradients and all weights after one step with a pair of one scan, of two scans in one frame, and of two patients."""
    share = 48 * torch.rand(600, 3, generator=torch.Generator().manual_seed(0))
    data = scene([labelled_scan("a", 0), replace(labelled_scan("b", 1), frame="a", slack_mm=3.0), labelled_scan("c", 2)], **ALWAYS)
    data.common = {(0, 2): torch.cat([share, share], 1), (2, 0): torch.cat([share, share], 1)}
    module = semantic_module(SemanticOptions(per_structure=10), around=5).to(device)
    module._trainer = SimpleNamespace(datamodule=data, global_step=0, max_steps=9, callbacks=[])
    module.log = module.log_dict = lambda *_, **__: None
    module.scans = data.scans
    if resident:
        module.on_fit_start()
        assert module.scans[0].image.device.type == torch.device(device).type
        assert data.scans[0].image.device.type == "cpu", "the loader draws from these"
    module.on_train_batch_start([], 0)
    stream = PairStream(data.scans, data.augmentation, 0, 0, (32, 32, 32), 0.6, data.common, 0.5)
    pairs = {frozenset((p.fixed_scan, p.moving_scan)): p for p in map(stream.draw, range(12))}
    assert {frozenset({0}), frozenset({0, 1}), frozenset({0, 2})} <= pairs.keys()
    choose = Chooser(data.scans, data.common, data.table, module.place_options())
    loss = module.training_step([choose(p) for p in pairs.values()], 0)
    loss.backward()
    optimisers = module.configure_optimizers()
    optimisers["optimizer"].step()
    weights = list(module.network.parameters())
    gradients, changed = (torch.cat([t.flatten() for t in ts]).cpu() for ts in ([p.grad for p in weights], [p.detach() for p in weights]))
    return loss.detach().cpu(), gradients, changed


@pytest.mark.parametrize("resident", [True, False], ids=["scans there", "scans on the CPU"])
def test_a_step_of_training_is_the_same(pretended: str, resident: bool) -> None:
    (loss, gradients, weights), (wanted, slopes, changed) = trained(pretended, resident), trained("cpu", False)
    torch.testing.assert_close(loss, wanted)
    limit = 0.01 if resident else 1e-5  # views of a whole scan and of a part of it are rounded differently
    assert (gradients - slopes).norm() < limit * slopes.norm()
    assert (weights - changed).norm() < limit * RATE * slopes.norm()


def test_a_network_in_training_is_measured_there(pretended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = semantic_module().to(pretended)
    module._trainer = SimpleNamespace(callbacks=[], datamodule=scene([]))
    seen: list[Session] = []
    monkeypatch.setattr("training.learning.callbacks.read_pairs", lambda path: path)
    monkeypatch.setattr("training.learning.callbacks.evaluate", lambda pairs, session: seen.append(session))
    monkeypatch.setattr("training.learning.callbacks.summarise", lambda found: dict.fromkeys(("median_mm", "mean_mm", "p95_mm", "cpm10")))
    LandmarkError(tmp_path).measure(module._trainer, module)
    assert seen[0].embed(tissue_volume((16, 16, 16))).device == torch.device(pretended)

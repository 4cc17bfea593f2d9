"""Pretraining end to end on two tiny scans: the stream of examples, a fit that can be killed, the index, export and calibration."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from training import export
from training.augment import Augmentation, cut_view, to_patient
from training.calibrate import fit, logistic
from training.common_points import both_ways
from training.data import PairDataModule
from training.known_queries import Samples
from training.labels import LabelTable
from training.losses import ContrastOptions, PairDescriptors
from training.modules import SelfSupervisedModule
from training.places import Example, choose_places
from training.scan import Scan, load_scan, read_index
from training.stream import PairParameters, PairStream
from UniversalAnatomicalEmbeddingLib import catalogue, entries
from UniversalAnatomicalEmbeddingLib.catalogue import load_model
from UniversalAnatomicalEmbeddingLib.matching.confidence import probability
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.volume import from_array, read_volume, write_volume

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")

TINY = {"widths": (8, 8, 8, 8), "blocks": (1, 1, 1), "fine_channels": 8, "coarse_channels": 8}
STEPS, KILLED_AFTER = 4, 2


# --- the stream of examples -----------------------------------------------------------------------------------------------------------


def blank(name: str, frame: str, size: tuple[int, int, int] = (60, 70, 80), body: tuple[slice, ...] = (slice(None),)) -> Scan:
    """A scan of 2 mm voxels whose body is a box."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[body] = True
    mm_to_index = torch.tensor([[0.5, 0, 0, 3], [0, 0.5, 0, -7], [0, 0, 0.5, 40]])
    return Scan(name, "ct", frame, torch.zeros(size), mask, mask.nonzero(), mm_to_index)


def stream(scans: list[Scan] | None = None, **changes: object) -> PairStream:
    arguments = {"augmentation": Augmentation(), "seed": 3, "first": 0, "max_view": (64, 64, 96), "cross_p": 0.5} | changes
    return PairStream(scans or [blank("a", "p"), blank("b", "p"), blank("c", "q")], **arguments)


def same(a: object, b: object) -> bool:
    """Equal in every number, views included."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return all(same(value, getattr(b, name)) for name, value in vars(a).items())
    if isinstance(a, tuple):
        return all(map(same, a, b))
    return a == b


def first_of(examples: Iterator[PairParameters], n: int) -> list[PairParameters]:
    return list(itertools.islice(iter(examples), n))


def test_an_example_depends_on_its_number_and_seed_only() -> None:
    fresh, used = stream(), stream()
    first_of(used, 5)
    assert same(fresh.draw(7), used.draw(7))
    assert not same(fresh.draw(7), fresh.draw(8))
    assert not same(fresh.draw(7), stream(seed=4).draw(7))


def test_a_stream_that_starts_later_goes_on_where_the_other_would_be() -> None:
    whole = first_of(stream(), 9)
    for a, b in zip(whole[5:], first_of(stream(first=5), 4), strict=True):
        assert same(a, b)
    assert not same(whole[0], whole[5])


def test_crossed_pairs_share_a_frame_and_only_where_there_is_another_scan() -> None:
    never, always = (first_of(stream(cross_p=p), 40) for p in (0.0, 1.0))
    assert all(p.fixed_scan == p.moving_scan for p in never)
    assert {(p.fixed_scan, p.moving_scan) for p in always} == {(0, 1), (1, 0), (2, 2)}
    mixed = {p.fixed_scan == p.moving_scan for p in first_of(stream(), 40) if p.fixed_scan < 2}
    assert mixed == {True, False}


def test_views_have_one_size_that_the_network_takes_and_only_the_second_is_deformed() -> None:
    examples = first_of(stream(augmentation=Augmentation(elastic_p=1)), 20)
    for p in examples:
        assert p.fixed.shape_zyx == p.moving.shape_zyx
        assert all(n % 16 == 0 and 48 <= n <= m for n, m in zip(p.fixed.shape_zyx, (64, 64, 96), strict=True))
        assert p.fixed.displacement is None
        assert p.moving.displacement is not None
    assert len({p.fixed.shape_zyx for p in examples}) > 1


def test_views_lie_around_points_of_the_body() -> None:
    small = blank("small", "p", (60, 160, 80), (slice(20, 40), slice(100, 110), slice(30, 50)))
    still = Augmentation(jitter_mm=0, elastic_p=0)
    for p in first_of(stream([small], augmentation=still), 20):
        for view in (p.fixed, p.moving):
            middle = (torch.tensor(view.shape_zyx).float()[None] - 1) / 2
            index = (to_patient(middle, view) @ small.mm_to_index[:, :3].T + small.mm_to_index[:, 3])[0].flip(0)
            assert 100 - 1 <= index[1] <= 110 + 1, "along y the scan is larger than the view, so that the centre can be the point"
            assert ((index >= 0) & (index <= torch.tensor([60, 160, 80]))).all()


def test_scans_with_more_body_are_seen_more_often() -> None:
    large, small = blank("large", "p"), blank("small", "q", body=(slice(0, 6),))
    drawn = [p.fixed_scan for p in first_of(stream([large, small]), 200)]
    assert 5 <= drawn.count(1) <= 35, "a tenth of the body, so about 18 of 200"


# --- two patients ---------------------------------------------------------------------------------------------------------------------


def common_of(a: Scan, b: Scan, count: int = 600) -> Tensor:
    """Common points spread over two scans: the same share of the size of each."""
    share = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    return torch.cat([share * torch.tensor(s.image.shape) for s in (a, b)], dim=1)


def test_pairs_of_patients_are_drawn_around_one_common_point_where_there_are_some() -> None:
    scans = [blank("a", "p"), blank("b", "q", (80, 70, 60)), blank("c", "r")]
    common = both_ways({("a", "b"): common_of(*scans[:2])}, ["a", "b", "c"])
    still = Augmentation(jitter_mm=0, elastic_p=1)
    examples = first_of(stream(scans, augmentation=still, max_view=(48, 48, 48), common=common, between_p=1.0), 30)
    assert {(p.fixed_scan, p.moving_scan) for p in examples} == {(0, 1), (1, 0), (2, 2)}
    for p in (p for p in examples if p.fixed_scan != p.moving_scan):
        assert p.fixed.displacement is None, "common points are taken to both views in closed form"
        assert p.moving.displacement is None
        assert p.fixed.shape_zyx == p.moving.shape_zyx
        share = []
        for scan, view in ((scans[p.fixed_scan], p.fixed), (scans[p.moving_scan], p.moving)):
            middle = (torch.tensor(view.shape_zyx).float()[None] - 1) / 2
            index = (to_patient(middle, view) @ scan.mm_to_index[:, :3].T + scan.mm_to_index[:, 3])[0]
            half = torch.tensor(view.shape_zyx[::-1]) / 2
            size = torch.tensor(scan.image.shape[::-1]).float()
            share.append(((index > half + 1) & (index < size - half - 1), index / size))
        free = share[0][0] & share[1][0]
        torch.testing.assert_close(share[0][1][free], share[1][1][free], atol=0.02, rtol=0)


def test_pairs_of_patients_are_as_frequent_as_asked_for() -> None:
    scans = [blank("a", "p"), blank("b", "q")]
    common = both_ways({("a", "b"): common_of(*scans)}, ["a", "b"])
    assert all(p.fixed_scan == p.moving_scan for p in first_of(stream(scans, common=common, between_p=0.0), 20))
    mixed = [p.fixed_scan == p.moving_scan for p in first_of(stream(scans, common=common, between_p=0.5), 60)]
    assert 15 <= sum(mixed) <= 45


def test_a_pair_of_patients_is_described_at_its_common_points_with_slack(folder: Path) -> None:
    rows = read_index(folder / "index.csv")
    scans = [load_scan(r["path"], r["modality"], name, catalogue.Intensity()) for name, r in zip("pq", rows, strict=True)]
    common = {(0, 1): common_of(*scans)}
    common[1, 0] = common[0, 1].roll(3, 1)
    examples = first_of(stream(scans, max_view=(48, 48, 48), common=common, between_p=1.0), 9)
    example = next(p for p in examples if p.fixed_scan != p.moving_scan)
    fixed, moving = scans[example.fixed_scan], scans[example.moving_scan]
    own = common[example.fixed_scan, example.moving_scan]
    with torch.no_grad():
        d = described(module(slack_mm=9.0, around=7), example, fixed, moving, own)
    assert d.slack_mm == 9.0
    assert d.matched == 48
    assert d.around.shape == (2, 48, 7, 8)
    torch.testing.assert_close(d.around.norm(dim=3), torch.ones(2, 48, 7), atol=1e-4, rtol=0)
    nearest = [
        torch.cdist(d.patient_mm[side, : d.matched], place, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for side, place in enumerate((fixed.place(own[:, :3]), moving.place(own[:, 3:])))
    ]
    assert all(n.values.max() < 0.01 for n in nearest)
    assert torch.equal(nearest[0].indices, nearest[1].indices), "the same point on both sides"


def test_within_one_patient_a_partner_is_at_one_place(folder: Path) -> None:
    rows = read_index(folder / "index.csv")
    scan = load_scan(rows[0]["path"], rows[0]["modality"], "p", catalogue.Intensity())
    example = stream([scan], max_view=(48, 48, 48)).draw(0)
    with torch.no_grad():
        assert described(module(), example, scan, scan).around.numel() == 0


# --- scans on disk --------------------------------------------------------------------------------------------------------------------


def make_scan(path: Path, seed: int, modality: str) -> None:
    """48 voxels of 2 mm on each side: a block of smooth texture in air."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((48, 48, 48)) / 5
    waves = sum(np.sin(rng.uniform(0.3, 1.2, 3) @ [z.ravel(), y.ravel(), x.ravel()] + rng.uniform(0, 6)) for _ in range(6)).reshape(z.shape)
    array = np.full((48, 48, 48), -1000.0 if modality == "ct" else 0.0)
    array[4:-4, 4:-4, 4:-4] = (50 + 60 * waves if modality == "ct" else 400 + 80 * waves)[4:-4, 4:-4, 4:-4]
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-40, 10, 500]
    write_volume(from_array(array.astype(np.int16), affine), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of one frame and their index."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "scans").mkdir()
    for name, seed in (("ct", 1), ("mr", 2)):
        make_scan(folder / "scans" / f"{name}.nii.gz", seed, name)
    (folder / "index.csv").write_text("path,modality,frame\nscans/ct.nii.gz,ct,p\nscans/mr.nii.gz,mr,p\n")
    return folder


def test_the_index_is_read_relative_to_itself(folder: Path) -> None:
    rows = read_index(folder / "index.csv")
    assert [(r["path"], r["modality"], r["frame"]) for r in rows] == [(str(folder / f"scans/{m}.nii.gz"), m, "p") for m in ("ct", "mr")]


def test_an_index_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("path,kind\na.nii.gz,ct\n")
    with pytest.raises(ValueError, match=r"lacks the column\(s\) frame, modality; make it with"):
        read_index(tmp_path / "index.csv")


def test_a_scan_is_loaded_on_the_scale_of_the_network_with_its_geometry(folder: Path) -> None:
    scan = load_scan(str(folder / "scans" / "ct.nii.gz"), "ct", "p", catalogue.Intensity())
    assert (scan.name, scan.image.shape, scan.body.shape) == ("ct", (48, 48, 48), (48, 48, 48))
    assert scan.image.min() >= -1
    assert scan.image.max() <= 1
    assert scan.body[24, 24, 24]
    assert not scan.body[0, 0, 0]
    assert scan.body[tuple(scan.seeds.T)].all()
    corner = read_volume(folder / "scans" / "ct.nii.gz").grid.index_to_world([5, 7, 11])[0]
    index_xyz = scan.mm_to_index[:, :3] @ torch.from_numpy(corner).float() + scan.mm_to_index[:, 3]
    assert index_xyz.tolist() == pytest.approx([11, 7, 5], abs=1e-3)


# --- a fit that can be killed ---------------------------------------------------------------------------------------------------------


class Recorder(L.Callback):
    """Keeps the loss of every step; saves a checkpoint after one step and then dies, where told to."""

    def __init__(self, checkpoint: Path, die: bool = False) -> None:
        self.checkpoint, self.die, self.losses = checkpoint, die, {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict, batch: object, batch_idx: int) -> None:
        self.losses[trainer.global_step] = float(outputs["loss"])
        if self.die and trainer.global_step == KILLED_AFTER:
            trainer.save_checkpoint(self.checkpoint)
            raise RuntimeError("killed")


def module(**changes: object) -> SelfSupervisedModule:
    torch.manual_seed(0)
    arguments = {"points": 48, "cells": 100, "near": 60, "warmup": 2, "decay": 3, "freeze_norm": 3} | changes
    return SelfSupervisedModule(Compact(**TINY), ContrastOptions(fine_pool=150, fine_keep=60), **arguments)


def described(
    trained: SelfSupervisedModule, pair: PairParameters, fixed: Scan, moving: Scan, common: Tensor | None = None
) -> PairDescriptors:
    """One pair as a training step sees it."""
    places = choose_places(pair, fixed, moving, trained.place_options(), None if fixed.labels is None else LabelTable.read(), common)
    return trained.describe(Example(pair, places), fixed, moving)


def train(folder: Path, recorder: Recorder, resume: Path | None = None, **changes: int) -> SelfSupervisedModule:
    data = PairDataModule(str(folder / "index.csv"), Augmentation(), pairs_per_step=1, max_view=(48, 48, 48), cross_p=0.5)
    trained = module()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    settings = {"max_steps": STEPS, "num_sanity_val_steps": 0, "default_root_dir": folder} | quiet | changes
    trainer = L.Trainer(accelerator="cpu", callbacks=[recorder], **settings)
    trainer.fit(trained, data, ckpt_path=resume)
    return trained


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> tuple[SelfSupervisedModule, Recorder]:
    recorder = Recorder(folder / "unused.ckpt")
    return train(folder, recorder), recorder


@pytest.fixture(scope="module")
def killed(folder: Path) -> Recorder:
    recorder = Recorder(folder / "killed.ckpt", die=True)
    with pytest.raises(RuntimeError, match="killed"):
        train(folder, recorder)
    return recorder


def test_a_fit_changes_the_weights_and_has_a_loss_at_every_step(unbroken: tuple[SelfSupervisedModule, Recorder]) -> None:
    trained, recorder = unbroken
    assert sorted(recorder.losses) == list(range(1, STEPS + 1))
    assert all(np.isfinite(loss) and loss > 0.1 for loss in recorder.losses.values())
    fresh = module().network.state_dict()
    changed = [not torch.equal(value, fresh[name]) for name, value in trained.network.state_dict().items()]
    assert np.mean(changed) > 0.9


def test_a_killed_and_resumed_run_equals_an_unbroken_one(
    folder: Path, unbroken: tuple[SelfSupervisedModule, Recorder], killed: Recorder
) -> None:
    trained, reference = unbroken
    resumed = Recorder(folder / "unused.ckpt")
    continued = train(folder, resumed, resume=killed.checkpoint)
    assert sorted(killed.losses) == list(range(1, KILLED_AFTER + 1))
    assert sorted(resumed.losses) == list(range(KILLED_AFTER + 1, STEPS + 1))
    for step, loss in {**killed.losses, **resumed.losses}.items():
        assert loss == pytest.approx(reference.losses[step], rel=1e-4), f"step {step}"
    for name, value in continued.network.state_dict().items():
        torch.testing.assert_close(value, trained.network.state_dict()[name], atol=1e-5, rtol=1e-3)


class EveryBatch(Recorder):
    """Keeps the loss of every batch, by its number in this run."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict, batch: object, batch_idx: int) -> None:
        self.losses[len(self.losses)] = float(outputs["loss"])
        if self.die and trainer.global_step == 1:
            trainer.save_checkpoint(self.checkpoint)
            raise RuntimeError("killed")


def test_a_run_that_accumulates_gradients_resumes_where_it_was(folder: Path) -> None:
    whole, first, second = (EveryBatch(folder / "accumulated.ckpt", die=i == 1) for i in range(3))
    train(folder, whole, max_steps=2, accumulate_grad_batches=2)
    with pytest.raises(RuntimeError, match="killed"):
        train(folder, first, max_steps=2, accumulate_grad_batches=2)
    train(folder, second, first.checkpoint, max_steps=2, accumulate_grad_batches=2)
    assert (len(whole.losses), len(first.losses), len(second.losses)) == (4, 2, 2)
    assert [*first.losses.values(), *second.losses.values()] == pytest.approx(list(whole.losses.values()), rel=1e-4)


def test_examples_are_counted_over_steps_batches_and_processes(folder: Path) -> None:
    data = PairDataModule(folder / "index.csv", Augmentation(), pairs_per_step=3, seed=9)
    data.scans = [blank("a", "p")]
    data.trainer = SimpleNamespace(world_size=4, global_rank=2, global_step=10, accumulate_grad_batches=5, lightning_module=module())
    numbers = []
    examples = data.train_dataloader().dataset
    examples.draw = numbers.append
    first_of(examples, 4)
    start = 10 * 5 * 4 * 3 + 2 * 3
    assert numbers == [start, start + 1, start + 2, start + 12]
    assert examples.seed == 9


def test_workers_hand_over_the_same_examples_in_the_same_order(folder: Path) -> None:
    def first_steps(workers: int) -> list[list[Example]]:
        data = PairDataModule(folder / "index.csv", Augmentation(), pairs_per_step=2, max_view=(48, 48, 48), seed=9, workers=workers)
        data.setup("fit")
        data.trainer = SimpleNamespace(world_size=2, global_rank=1, global_step=3, accumulate_grad_batches=1, lightning_module=module())
        return [data.transfer_batch_to_device(b, torch.device("cpu"), 0) for b in itertools.islice(data.train_dataloader(), 5)]

    for alone, beside in zip(first_steps(0), first_steps(2), strict=True):
        assert all(same(a, b) for a, b in zip(alone, beside, strict=True))


def test_padded_views_show_the_same_with_air_around(folder: Path) -> None:
    shapes = [(96, 96, 128), (64, 80, 96), (32, 32, 32)]
    plain, padding = stream(), stream(shapes=shapes)
    volume = torch.rand(60, 70, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scans = [blank("a", "p"), blank("b", "p"), blank("c", "q")]
    for a, b in ((plain.draw(i), padding.draw(i)) for i in range(6)):
        assert b.fixed.shape_zyx == b.moving.shape_zyx == (64, 80, 96)
        at = scans[a.fixed_scan].mm_to_index
        quiet = [replace(v, noise=0.0, blur=0.0, thick=None, bias=None, metal=None, table=None) for v in (a.fixed, b.fixed)]
        small, large = (cut_view(volume, at, v)[0, 0] for v in quiet)
        z, y, x = small.shape
        torch.testing.assert_close(large[:z, :y, :x], small, atol=1e-3, rtol=0)
        large[:z, :y, :x] = -1
        assert (large == -1).all()
        points = torch.rand(50, 3) * torch.tensor(a.fixed.shape_zyx)
        torch.testing.assert_close(to_patient(points, a.fixed), to_patient(points, b.fixed))


def test_a_view_larger_than_every_shape_keeps_its_size() -> None:
    assert stream(shapes=[(32, 32, 32)]).draw(0).fixed.shape_zyx == stream().draw(0).fixed.shape_zyx


def test_the_described_points_are_the_same_patient_points_in_both_views(folder: Path) -> None:
    scans = [load_scan(r["path"], r["modality"], r["frame"], catalogue.Intensity()) for r in read_index(folder / "index.csv")]
    example = PairStream(scans, Augmentation(truncate_p=0), 0, 0, (48, 48, 48), 1.0).draw(1)
    with torch.no_grad():
        d = described(module(), example, scans[example.fixed_scan], scans[example.moving_scan])
    assert 16 <= d.matched <= 48
    assert d.fine.shape == (2, d.matched + 160, 8)
    assert d.coarse.shape == (2, d.matched + 160, 8)
    torch.testing.assert_close(d.patient_mm[0, : d.matched], d.patient_mm[1, : d.matched], atol=2e-3, rtol=0)
    torch.testing.assert_close(d.fine.norm(dim=2), torch.ones(2, d.matched + 160), atol=1e-4, rtol=0)


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    trained = module(warmup=60, decay=400)
    trained.trainer = L.Trainer(accelerator="cpu", max_steps=1300, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [factor] = trained.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas
    assert [factor(step) for step in (0, 29, 59, 500, 900, 1100, 1300, 1400)] == pytest.approx([1 / 60, 0.5, 1, 1, 1, 0.5, 0, 0])


@pytest.mark.parametrize(("step", "moves"), [(2, True), (3, False)])
def test_batch_norm_is_frozen_from_its_step_on(step: int, moves: bool) -> None:
    trained = module().train()
    trained._trainer = type("At", (), {"global_step": step})()
    trained.on_train_batch_start([], 0)
    norms = [layer for layer in trained.network.modules() if isinstance(layer, torch.nn.BatchNorm3d)]
    assert norms
    assert {layer.training for layer in norms} == {moves}


# --- export ---------------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_model_of_the_catalogue(
    folder: Path, killed: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {
        "id": "tiny-1",
        "title": "Tiny",
        "family": "compact",
        "modality": ["ct", "mr"],
        "regions": ["chest"],
        "licence": "Apache-2.0",
        "citation": "none",
        "network": {k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()},
        "training": {"scans": "2"},
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    (tmp_path / "catalogue.json").write_text(json.dumps({"default": "old", "models": [{"id": "old"}, {"id": "tiny-1"}]}))
    weights = tmp_path / "tiny.safetensors"
    options = {
        "--checkpoint": killed.checkpoint,
        "--card": tmp_path / "card.yaml",
        "--out": weights,
        "--catalogue": tmp_path / "catalogue.json",
    }
    monkeypatch.setattr(sys, "argv", ["export", *(str(part) for pair in options.items() for part in pair)])
    export.main()
    content = json.loads((tmp_path / "catalogue.json").read_text())
    assert content["default"] == "tiny-1"
    assert [m["id"] for m in content["models"]] == ["tiny-1", "old"]
    (tmp_path / "catalogue.json").write_text(json.dumps({**content, "models": content["models"][:1]}))
    monkeypatch.setattr(entries, "PRETRAINED", tmp_path)
    loaded = load_model()
    assert loaded.card.id == "tiny-1"
    assert loaded.card.modality == ("ct", "mr")
    assert loaded.card.training == {"scans": "2", "steps": KILLED_AFTER}
    state = torch.load(killed.checkpoint, weights_only=True)["state_dict"]
    assert loaded.network.state_dict().keys() == {k.removeprefix("network.") for k in state}
    for name, value in loaded.network.state_dict().items():
        torch.testing.assert_close(value, state[f"network.{name}"], atol=2e-3, rtol=2e-3, check_stride=False, check_dtype=False)
    assert not loaded.network.training


# --- calibration ----------------------------------------------------------------------------------------------------------------------


def test_logistic_separates_what_can_be_separated_in_raw_units() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([5.0, -300.0], [1.0, 50.0], (400, 2))
    y = 2 * (x[:, 0] - 5) + (x[:, 1] + 300) / 50 > 0
    model = logistic(x, y)
    assert len(model) == 3
    assert ((probability(x, model) > 0.5) == y).mean() > 0.97
    assert model[0] / model[1] == pytest.approx(2 / (1 / 50), rel=0.25)


def test_logistic_gives_probabilities_not_only_an_order() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (20_000, 1))
    y = rng.random(20_000) < 1 / (1 + np.exp(-(0.8 * x[:, 0] - 0.5)))
    p = probability(x, logistic(x, y))
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
        inside = (p >= low) & (p < high)
        assert y[inside].mean() == pytest.approx(p[inside].mean(), abs=0.07)


def test_a_constant_feature_does_no_harm() -> None:
    x = np.stack([np.linspace(-1, 1, 50), np.full(50, 7.0)], axis=1)
    p = probability(x, logistic(x, x[:, 0] > 0))
    assert ((p > 0.5) == (x[:, 0] > 0)).all()


def test_a_fit_tells_what_is_absent_and_what_is_correct() -> None:
    rng = np.random.default_rng(2)
    present = np.arange(600) < 450
    x = rng.normal(np.where(present, 1.0, -1.0)[:, None], 1.2, (600, 5))
    correct = present & (x[:, 1] > 0.5)
    calibration = fit(Samples(x, present, correct))
    absent = probability(x, calibration.present) < calibration.absent_below
    assert (absent == ~present).mean() > 0.9
    assert absent[~present].mean() > 0.8
    sure = probability(x[present], calibration.correct) > 0.5
    assert (sure == correct[present]).mean() > 0.9

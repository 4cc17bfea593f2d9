"""UAE-S: labelled points of several scans, what is said of them, and the head that learns from it."""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from samples import randomised
from training_scene import QUIET, TINY, labelled_scan, scene, semantic_module

from training.batches.augment import Augmentation, draw_view, to_patient
from training.batches.places import choose_places
from training.batches.sampling import all_cells, labelled_cells, labels_at, random_cells
from training.batches.stream import PairParameters
from training.learning.losses import SemanticOptions
from training.scans.labels import UNSURE, LabelTable
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard, load_model
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.session import Session

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")
TABLE = LabelTable.read()
LEFT, RIGHT = TABLE.id_of("kidney_left"), TABLE.id_of("kidney_right")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view_of(seed: int, **changes: float):
    centre = torch.tensor([42.0, 62.0, -32.0])
    return draw_view(centre, (32, 32, 32), True, Augmentation(**{"jitter_mm": 4.0} | changes), seeded(seed))


# --- labelled points ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 4, 8)])
def test_all_cells_are_those_that_random_cells_come_from(stride: tuple[int, int, int]) -> None:
    view = replace(view_of(1), box=torch.tensor([[3.0, 0.0, 5.0], [20.0, 31.0, 30.0]]))
    every = {tuple(row) for row in all_cells(view, stride).tolist()}
    assert len(every) == len(all_cells(view, stride))
    assert every == {tuple(row) for row in random_cells(view, stride, 20_000, seeded()).tolist()}


def test_labels_are_those_of_the_nearest_voxel_and_unsure_outside() -> None:
    scan = labelled_scan("a", 0)
    index = torch.rand(300, 3, generator=seeded(1)) * 70 - 10
    points = torch.linalg.solve(scan.mm_to_index[:, :3], (index.flip(1) - scan.mm_to_index[:, 3]).T).T
    expected = [int(scan.labels[z, y, x]) if all(0 <= v < 48 for v in (z, y, x)) else UNSURE for z, y, x in index.round().int().tolist()]
    assert labels_at(scan, points).tolist() == expected
    assert {UNSURE, 0, LEFT, RIGHT} == set(expected)


def test_every_structure_of_a_view_gives_some_cells_however_small_it_is() -> None:
    scan = labelled_scan("a", 0)
    scan.labels[20:24, 20:24, 20:24] = TABLE.id_of("spleen")
    view = view_of(0, truncate_p=0.0, rotation_deg=0.0, large_rotation_p=0.0)
    index, ids = labelled_cells(scan, view, (2, 2, 2), 6, seeded())
    assert torch.equal(labels_at(scan, to_patient(index, view)), ids)
    counts = dict(zip(*(v.tolist() for v in ids.unique(return_counts=True)), strict=True))
    assert counts.keys() == {0, LEFT, RIGHT, TABLE.id_of("spleen")}
    assert counts[LEFT] == counts[RIGHT] == counts[0] == 6
    assert 1 <= counts[TABLE.id_of("spleen")] <= 6
    other, _ = labelled_cells(scan, view, (2, 2, 2), 6, seeded(1))
    assert not torch.equal(index, other)
    _, of_unknown = labelled_cells(replace(scan, known=torch.zeros_like(scan.known)), view, (2, 2, 2), 6, seeded())
    assert 0 not in of_unknown, "where the source labels no structure for sure, an unlabelled cell says nothing"


def test_a_mirrored_patient_has_left_on_the_right() -> None:
    scan, options = labelled_scan("a", 0), semantic_module().place_options()
    view = view_of(3, truncate_p=0.0)
    pairs = [PairParameters(0, 0, *[replace(view, mirrored=m)] * 2, seed=0) for m in (False, True)]
    rows = [choose_places(p, scan, scan, options, TABLE).truth for p in pairs]
    assert rows[0][:, LEFT].tolist() == rows[1][:, RIGHT].tolist()
    assert rows[0][:, RIGHT].tolist() == rows[1][:, LEFT].tolist()
    assert rows[0][:, LEFT].tolist() != rows[0][:, RIGHT].tolist()


# --- the training step ----------------------------------------------------------------------------------------------------------------


class Losses(L.Callback):
    """Keeps what was logged at every step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict, batch: object, batch_idx: int) -> None:
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()} | {"loss": float(outputs["loss"])})


def fit(steps: int, semantic: SemanticOptions, learning_rate: float, scans: int = 2, **changes: object) -> Losses:
    module, losses = semantic_module(semantic, learning_rate=learning_rate, **changes), Losses()
    trainer = L.Trainer(accelerator="cpu", max_steps=steps, num_sanity_val_steps=0, callbacks=[losses], **QUIET)
    trainer.fit(module, scene([labelled_scan(n, s) for s, n in enumerate("abcd"[:scans])], 2))
    return losses


def test_the_semantic_loss_joins_the_others_with_its_weight() -> None:
    [row] = fit(1, SemanticOptions(weight=0.25, per_structure=12), 0.0).rows
    assert row["loss"] == pytest.approx(row["loss_fine"] + row["loss_coarse"] + 0.25 * row["loss_semantic"], rel=1e-4)
    assert row["loss_semantic"] > 1


def test_or_takes_turns_with_them_as_published() -> None:
    rows = fit(10, SemanticOptions(alternate_p=0.5, weight=2.0, per_structure=12), 0.0).rows
    alone = [row["loss"] == pytest.approx(2 * row["loss_semantic"], rel=1e-4) for row in rows]
    others = [row["loss"] == pytest.approx(row["loss_fine"] + row["loss_coarse"], rel=1e-4) for row in rows]
    assert all(a != b for a, b in zip(alone, others, strict=True))
    assert 1 <= sum(alone) <= 9


def test_a_semantic_head_learns_the_structures() -> None:
    rows = fit(30, SemanticOptions(per_structure=16, weight=1.0), 0.05, freeze_norm=None).rows
    first, last = (np.mean([row["loss_semantic"] for row in part]) for part in (rows[:5], rows[-5:]))
    assert last < first - 0.3


# --- weights and inference ------------------------------------------------------------------------------------------------------------


def test_without_a_semantic_head_the_network_is_what_it_was() -> None:
    plain, with_head = Compact(**TINY).state_dict(), Compact(**TINY, semantic_channels=8).state_dict()
    assert plain.keys() < with_head.keys()
    assert all(k.startswith("semantic_head.") for k in with_head.keys() - plain.keys())


def test_the_bundled_model_has_the_maps_that_its_card_names() -> None:
    bundled = load_model()
    maps = bundled.network(torch.zeros(1, 1, 16, 16, 16))
    assert set(maps) == {"fine", "coarse", "semantic"}
    assert maps["semantic"].shape[1] == bundled.card.network["semantic_channels"]


def test_three_heads_are_embedded_and_matched() -> None:
    network = randomised(Compact(**TINY, semantic_channels=8))
    card = ModelCard("three", "Three", "compact", ("ct",), (), "", "")
    rng = np.random.default_rng(0)
    array = np.kron(rng.normal(40, 60, (12, 12, 12)), np.ones((4, 4, 4))).clip(-150, 250).astype(np.float32)
    session = Session(Model(network, card), "cpu")
    scan = session.embed(Volume(array, Grid(array.shape, np.diag([2.0, 2, 2, 1])), "ct", "a"))
    assert scan.embedding.heads == 3
    assert scan.embedding.fine.shape[3] == 16
    lengths = np.linalg.norm(scan.embedding.fine.astype(np.float32).reshape(*scan.shape, 2, 8), axis=4)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)
    cells = np.array([[3, 10, 20], [12, 7, 15], [20, 18, 4]])
    query = scan.query(scan.embedding.fine_grid.index_to_world(cells))
    torch.testing.assert_close(query.fine.unflatten(1, (2, 8)).norm(dim=2), torch.ones(3, 2), atol=2e-3, rtol=0)
    fine, scores = query.fine @ scan.rows.float().T, scan.full_scores(query).flatten(1)
    own = scan.flat(torch.from_numpy(cells))
    assert torch.equal(fine.argmax(1), own)
    torch.testing.assert_close(fine.max(1).values, torch.full((3,), 2.0), atol=5e-3, rtol=0)
    coarse = scan.interpolate_coarse(scan.coarse_scores(query), torch.from_numpy(cells)[:, None])[:, 0]
    torch.testing.assert_close(scores[torch.arange(3), own], (fine.max(1).values + coarse) / 3, atol=1e-4, rtol=0)

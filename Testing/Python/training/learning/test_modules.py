"""Pretraining end to end on two tiny scans: the stream of examples, a fit that can be killed, the index, export and calibration."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from training_scene import KILLED_AFTER, STEPS, Recorder, module, train

from training.learning.modules import SelfSupervisedModule

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


# --- a fit that can be killed ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> tuple[SelfSupervisedModule, Recorder]:
    recorder = Recorder(folder / "unused.ckpt")
    return train(folder, recorder), recorder


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

"""Examples are counted and handed over alike with any number of workers."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_scene import blank, first_of, module, same

from training.batches.augment import Augmentation
from training.batches.data import PairDataModule
from training.batches.places import Example

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


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

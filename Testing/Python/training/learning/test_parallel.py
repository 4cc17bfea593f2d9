"""Several processes together learn what one process with the larger batch learns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_scene import RATE, blank, first_of, one_step, same, semantic_module, stream

from training.learning.parallel import gathered, processes, total

HERE = Path(__file__).parents[2]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the other processes have it: sums over another number of threads come out in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_processes_see_together_what_one_would_see() -> None:
    scans = [blank("a", "p"), blank("b", "q")]
    whole = first_of(stream(scans), 12)
    parts = [first_of(stream(scans, rank=rank, processes=2, block=3), 6) for rank in (0, 1)]
    for number, example in enumerate(whole):
        block, place = divmod(number, 3)
        assert same(parts[block % 2][3 * (block // 2) + place], example)
    later = first_of(stream(scans, first=6, rank=1, processes=2, block=3), 3)
    assert all(same(a, b) for a, b in zip(later, whole[9:], strict=True))


def test_in_one_process_nothing_is_exchanged() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gathered(rows) == [rows]
    assert (total(5, torch.device("cpu")), processes()) == (5, 1)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_have_the_gradients_of_one_with_the_double_batch(tmp_path: Path, one_thread: None) -> None:
    """Batch of 2 x 2 against 4: fine and coarse with negatives of the other process's patients, and prototypes over the points of both."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "UniversalAnatomicalEmbedding")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "training_scene.py"), "2", "2", str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    start = semantic_module().network.state_dict()
    two, one = torch.load(tmp_path / "2.pt", weights_only=True), one_step(1, 4, tmp_path)
    gradients = [{k: (start[k] - v) / RATE for k, v in after.items() if "num_batches" not in k} for after in (two, one)]
    norms = {k: float(v.norm()) for k, v in gradients[1].items()}
    for head in ("fine_head", "coarse_head", "semantic_head"):
        assert norms[f"{head}.project.weight"] > 1e-3
    for name, value in gradients[1].items():
        difference = float((gradients[0][name] - value).norm())
        assert difference <= 5e-3 * norms[name] + 1e-5, f"{name}: more than the order of float32 sums explains"

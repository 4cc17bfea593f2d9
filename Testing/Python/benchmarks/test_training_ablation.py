"""The ablation of losses and augmentation: a loss left out teaches nothing, every variant is a valid setting, and finished runs are not repeated."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
import lightning as L
from training_scene import QUIET, TINY, labelled_scan, scene

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import training_ablation as benchmark


@pytest.mark.parametrize("head", benchmark.HEADS)
def test_a_head_without_its_loss_learns_nothing(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = benchmark.Compact(**TINY, semantic_channels=8)
    module = benchmark.Weighted(network, benchmark.ContrastOptions(), points=40, cells=60, near=20, freeze_norm=0, weight_decay=0.0)
    module.without = head
    before = {k: v.clone() for k, v in network.named_parameters()}
    L.Trainer(accelerator="cpu", max_steps=2, default_root_dir=tmp_path, **QUIET).fit(
        module, scene([labelled_scan(n, s) for s, n in enumerate("ab")])
    )
    changed = {k for k, v in network.named_parameters() if not torch.equal(v, before[k])}
    for other in benchmark.HEADS:
        assert (f"{other}_head.project.weight" in changed) == (other != head)


def test_every_variant_is_a_setting_of_the_training() -> None:
    for variant in benchmark.VARIANTS.values():
        benchmark.Augmentation(**variant.augmentation)
        benchmark.ContrastOptions(**variant.contrast)
        benchmark.Weighted(benchmark.Compact(**TINY), benchmark.ContrastOptions(), **variant.module)
        assert variant.without_loss in ("", *benchmark.HEADS)


def test_it_goes_on_where_it_was_stopped_and_prints_a_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[str, int]] = []
    names = list(benchmark.VARIANTS)[:2]

    def train(variant: object, index: Path, scans: list[object], seed: int, steps: int) -> tuple[None, list[object]]:
        trained.append((next(k for k, v in benchmark.VARIANTS.items() if v is variant), seed))
        return None, scans

    monkeypatch.setattr(benchmark, "train", train)
    monkeypatch.setattr(benchmark, "measure", lambda network, heads, dev, warped: {"chest": [2.0, 4.0, 30.0]})
    monkeypatch.setattr(benchmark, "known_warp_cases", lambda volumes: [])
    monkeypatch.setattr(benchmark, "read_volume", lambda path: None)
    out = tmp_path / "results.jsonl"
    command = ["", "run", "--index", "none", "--dev", str(tmp_path), "--out", str(out), "--seeds", "0", "1", "--only", *names]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    assert trained == [(name, seed) for seed in (0, 1) for name in names]
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:1] + lines[2:]) + "\n")
    benchmark.main()
    assert trained[4:] == [(names[1], 0)]
    assert json.loads(lines[0])["errors_mm"] == {"chest": [2.0, 4.0, 30.0]}
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["", "table", "--out", str(out)])
    benchmark.main()
    assert capsys.readouterr().out.splitlines()[2] == f"| {names[0]} | 4.0, 4.0 mm; 67 % |"

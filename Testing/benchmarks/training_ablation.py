"""What each loss and each family of augmentation contributes: small networks trained shortly, each without one of them, with several seeds.

``python Testing/benchmarks/training_ablation.py run --index runs/index.csv --dev FOLDER --out RESULTS.jsonl [--only NAME ..] [--seeds 0 1]`` trains and
measures one network after the other; each result is appended at once, and what the file already holds is skipped, so a run can be stopped and taken
up again. ``python Testing/benchmarks/training_ablation.py table --out RESULTS.jsonl`` prints the table.

All networks see the same numbered pairs of the same scans; a seed is that of the weights and of the stream. A head without its loss takes no part
in matching. FOLDER holds the scans and lists that are never trained on: ``pairs_ct_chest.json`` (different patients), ``pairs_ctmr_identity.json``
(one patient), and scans for the known-warp test. Errors are those of all present points, whatever the verdict.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ablation import Ablated

from training.batches.augment import Augmentation
from training.batches.data import PairDataModule
from training.learning.losses import ContrastOptions, SemanticOptions
from training.learning.modules import SelfSupervisedModule
from training.measure.evaluate import Case, known_warp_cases, session_errors
from UniversalAnatomicalEmbeddingLib.images import read_volume
from UniversalAnatomicalEmbeddingLib.models import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.networks import Compact
from UniversalAnatomicalEmbeddingLib.report import evaluate, read_pairs

NETWORK = {"widths": (16, 32, 64, 88), "blocks": (1, 1, 1), "fine_blocks": 1, "semantic_channels": 64}
VIEW = (96, 96, 128)
PAIRS_PER_STEP = 3
LISTS = {"chest": "pairs_ct_chest.json", "CT to MR": "pairs_ctmr_identity.json"}
WARPED = ("lidc_0001_chest", "ricord1a_000082_chest")
HEADS = ("fine", "coarse", "semantic")


@dataclass(frozen=True)
class Variant:
    """What differs from the full recipe: a loss left out, other settings of the module, the data, the contrast or the augmentation."""

    without_loss: str = ""
    module: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    contrast: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "full recipe": Variant(),
    "without the fine loss": Variant(without_loss="fine"),
    "without the coarse loss": Variant(without_loss="coarse"),
    "without the semantic loss": Variant(without_loss="semantic"),
    "without near negatives (fine)": Variant(module={"near": 0}),
    "without other patients' negatives (coarse)": Variant(contrast={"cross_negatives": 0}),
    "without CT/MR and other pairs of a frame": Variant(data={"cross_p": 0.0}),
    "without zoom, stretch, rotation": Variant(
        augmentation={"zoom": (1.0, 1.0), "stretch": 0.0, "rotation_deg": 0.0, "large_rotation_p": 0.0}
    ),
    "without elastic deformation": Variant(augmentation={"elastic_p": 0.0}),
    "without changes of contrast": Variant(augmentation={"remap_p": 0.0, "bias_p": 0.0}),
    "changes of contrast in MR, a tenth of them in CT": Variant(augmentation={"ct_contrast": 0.1}),
    "without noise, blur, thick slices": Variant(augmentation={"noise": 0.0, "blur_p": 0.0, "thick_slice_p": 0.0}),
    "without a cut field of view": Variant(augmentation={"truncate_p": 0.0}),
    "without table and metal": Variant(augmentation={"table_p": 0.0, "metal_p": 0.0}),
}


class Weighted(SelfSupervisedModule):
    """The module with the weight of one loss at zero."""

    without = ""

    def loss_weights(self, step: int) -> dict[str, float]:
        """As ever, but for the one."""
        return {k: 0.0 if k == self.without else v for k, v in super().loss_weights(step).items()}


def train(variant: Variant, index: Path, scans: list, seed: int, steps: int) -> tuple[Compact, list]:
    """The trained network, and the scans so that the next run need not read them."""
    torch.manual_seed(seed)
    data = PairDataModule(
        index,
        Augmentation(**{"zoom": (0.75, 1.3), "stretch": 0.12, "elastic_mm": 8.0, "remap_p": 0.4, **variant.augmentation}),
        PAIRS_PER_STEP,
        VIEW,
        seed=seed,
        labels=True,
        **{"cross_p": 0.4, **variant.data},
    )
    data.scans = scans
    network = Compact(**NETWORK)
    module = Weighted(
        network,
        ContrastOptions(**variant.contrast),
        SemanticOptions(weight=0.3),
        warmup=20,
        decay=steps // 2,
        freeze_norm=steps // 2,
        **{"points": 400, "cells": 1000, "near": 1200, **variant.module},
    )
    module.without = variant.without_loss
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    trainer = L.Trainer(accelerator="auto", devices=1, max_steps=steps, precision="bf16-mixed", gradient_clip_val=1.0, **quiet)
    trainer.fit(module, data)
    return network.cpu(), data.scans


def measure(network: Compact, heads: list[str], dev: Path, warped: list[Case]) -> dict[str, list[float]]:
    """Errors in mm by list."""
    card = ModelCard("ablation", "", "", ("ct", "mr"), (), "", "")
    session = Ablated(Model(network.eval().requires_grad_(False), card), "auto")
    session.heads = heads
    found = {}
    for name, file in LISTS.items():
        found[name] = [o.error_mm for o in evaluate(read_pairs(dev / file), session).outcomes if o.error_mm is not None]
    return {**found, "known warp": session_errors(session, warped).tolist()}


def run(args: argparse.Namespace) -> None:
    """Every seed of every variant that the file lacks."""
    done = {(r["variant"], r["seed"], r["steps"]) for r in results(args.out)}
    warped = known_warp_cases([read_volume(args.dev / "ct" / f"{name}.nii.gz") for name in WARPED])
    scans: list = []
    for seed in args.seeds:
        for name in args.only or VARIANTS:
            if (name, seed, args.steps) in done:
                continue
            start = time.perf_counter()
            variant = VARIANTS[name]
            network, scans = train(variant, args.index, scans, seed, args.steps)
            trained = time.perf_counter()
            errors = measure(network, [h for h in HEADS if h != variant.without_loss], args.dev, warped)
            seconds = round(trained - start, 1), round(time.perf_counter() - trained, 1)
            row = {"variant": name, "seed": seed, "steps": args.steps, "seconds": seconds, "errors_mm": errors}
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            medians = ", ".join(f"{k} {np.median(e):.1f} mm" for k, e in errors.items())
            print(f"{name}, seed {seed}: {medians}; {seconds[0]:.0f} s and {seconds[1]:.0f} s", flush=True)


def results(path: Path) -> list[dict[str, Any]]:
    """What a file of results holds; nothing where there is none."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(path: Path) -> None:
    """A line per variant: for each list the median in mm of every seed, and the share within 10 mm of all seeds."""
    rows = results(path)
    lists = list(rows[0]["errors_mm"])
    print("| trained | " + " | ".join(lists) + " |\n|---|" + "---|" * len(lists))
    for name in VARIANTS:
        runs = sorted((r for r in rows if r["variant"] == name), key=lambda r: r["seed"])
        if not runs:
            continue
        cells = []
        for k in lists:
            medians = ", ".join(f"{np.median(r['errors_mm'][k]):.1f}" for r in runs)
            within = np.mean([np.mean(np.array(r["errors_mm"][k]) <= 10) for r in runs])
            cells.append(f"{medians} mm; {100 * within:.0f} %")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Run or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    running = jobs.add_parser("run")
    running.add_argument("--index", type=Path, required=True)
    running.add_argument("--dev", type=Path, required=True)
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    running.add_argument("--steps", type=int, default=250)
    running.add_argument("--only", nargs="+", choices=tuple(VARIANTS), metavar="NAME")
    printing = jobs.add_parser("table")
    for each in (running, printing):
        each.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.job == "run":
        run(args)
    else:
        table(args.out)


if __name__ == "__main__":
    main()

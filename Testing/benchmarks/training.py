"""Speed and memory of pretraining: ``python Testing/benchmarks/training.py [--config FILE ..] [--index runs/index.csv] [--steps 10] [--device auto]``.

Says for the network, views and losses of the configuration (later files go over earlier ones): steps a second, where the time of a step goes (waiting
for the next pairs, cutting their views, the network forth, sampling, losses, the network back and the optimiser), the peak memory, and how busy a
GPU is in as many steps more, which nothing interrupts (needs the package nvidia-ml-py). Without an index it trains on made-up scans of the size of a
chest, whose content does not matter for the speed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training.batches.data import PairDataModule
from training.learning import modules
from training.learning.modules import SelfSupervisedModule
from training.scans.scan import Scan

CONFIG = Path(__file__).resolve().parents[2] / "training" / "configs" / "compact_sam.yaml"
WARM_UP = 2


class Stopwatch:
    """Adds up the seconds spent in wrapped functions, waiting for the device so that its work is counted where it was ordered."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict(float)

    def now(self) -> float:
        """Seconds, with all work of the device done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed as ``part``."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self.now() - start

        return timed


class Rest(L.Callback):
    """Starts the clock after the first steps, times the whole and the waits between the steps, and looks at the GPU in further ``steps``."""

    def __init__(self, watch: Stopwatch, steps: int) -> None:
        self.watch, self.timed, self.steps = watch, steps, 0
        self.started = self.ended = self.seconds = 0.0
        self.shares: dict[str, float] = {}
        self.busy: list[int] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        """Count what was waited."""
        self.watch.seconds["waiting for pairs"] += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Count the step, or forget what was before; at the end of the timed ones keep their figures."""
        self.steps += 1
        if self.steps > WARM_UP + self.timed:
            self.busy.append(torch.cuda.utilization())
            return
        self.ended = self.watch.now()
        if self.steps == WARM_UP:
            self.watch.seconds.clear()
            self.started = self.ended
        elif self.steps == WARM_UP + self.timed:
            self.seconds, self.shares = self.ended - self.started, dict(self.watch.seconds)
            self.watch.device = torch.device("cpu")  # waits no more


def made_up(names: str = "abc") -> list[Scan]:
    """Smooth noise of 160 x 140 x 180 voxels, all body."""
    shape = (160, 140, 180)
    scans = []
    for seed, name in enumerate(names):
        noise = torch.randn(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(seed))
        image = F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0, 0].tanh()
        body = torch.ones(shape, dtype=torch.bool)
        matrix = torch.cat([torch.eye(3) / 2, torch.zeros(3, 1)], dim=1)
        scans.append(Scan(name, "ct", name, image.half(), body, body.nonzero()[::200].clone(), matrix))
    return scans


def build(configs: list[Path], index: Path | None) -> tuple[SelfSupervisedModule, PairDataModule, dict[str, Any]]:
    """Module, data and trainer settings of configurations, the later over the earlier."""
    content: dict[str, Any] = {}
    for part in (yaml.safe_load(c.read_text()) for c in configs):
        content |= {k: {**content.get(k, {}), **v} if isinstance(v, dict) else v for k, v in part.items()}
    parser = ArgumentParser()
    parser.add_class_arguments(SelfSupervisedModule, "model")
    parser.add_class_arguments(PairDataModule, "data")
    values = parser.parse_object({k: content[k] for k in ("model", "data")})
    built = parser.instantiate_classes(values)
    data: PairDataModule = built.data
    if index:
        data.hparams.index = index
    else:
        data.scans = made_up()
    return built.model, data, content["trainer"]


def main() -> None:
    """Train some steps and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=[CONFIG])
    parser.add_argument("--index", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", help="instead of the configuration's")
    args = parser.parse_args()
    module, data, settings = build(args.config, args.index)
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    watch = Stopwatch(torch.device("cuda" if cuda else "cpu"))
    modules.cut_view = watch.around("cutting views", modules.cut_view)
    module.network.features = watch.around("network forth", module.network.features)
    module.sample = watch.around("sampling", module.sample)
    module.contrast_terms = watch.around("losses", module.contrast_terms)
    rest = Rest(watch, args.steps)
    trainer = L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision=args.precision or settings["precision"],
        max_steps=WARM_UP + args.steps + (args.steps if cuda and find_spec("pynvml") else 0),
        callbacks=[rest],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    trainer.fit(module, data)
    total, shares = rest.seconds, rest.shares
    shares["network back and optimiser"] = total - sum(shares.values())
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    names, device = " + ".join(c.stem for c in args.config), "GPU" if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{names}, {data.hparams.pairs_per_step} pairs a step, {device}")
    print(f"{args.steps / total:.3f} steps/s ({total / args.steps:.2f} s a step), peak memory {peak:.2f} GiB")
    print(", ".join(f"{part} {100 * seconds / total:.0f} %" for part, seconds in shares.items()))
    if rest.busy:
        print(f"GPU busy {sum(rest.busy) / len(rest.busy):.0f} % of the time of {len(rest.busy)} steps that nothing interrupts")


if __name__ == "__main__":
    main()

"""Speed and memory of pretraining: ``python Testing/benchmarks/training.py [--config FILE] [--index runs/index.csv] [--steps 10] [--device auto]``.

Says for the configuration's network, views and losses: steps a second, where the time of a step goes (drawing and cutting views, the network forth,
sampling and losses, the network back and the optimiser), and the peak memory. Without an index it trains on made-up scans of the size of a chest,
whose content does not matter for the speed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training import modules
from training.data import PairDataModule, PairStream
from training.modules import SelfSupervisedModule
from training.scan import Scan

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
    """Starts the clock after the first steps, and times the whole."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.started, self.steps = watch, 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Count the step, or forget what was before."""
        self.steps += 1
        if self.steps == WARM_UP:
            self.watch.seconds.clear()
            self.started = self.watch.now()


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


def build(config: Path, index: Path | None) -> tuple[SelfSupervisedModule, PairDataModule, dict[str, Any]]:
    """Module, data and trainer settings of a configuration."""
    content = yaml.safe_load(config.read_text())
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
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", help="instead of the configuration's")
    args = parser.parse_args()
    module, data, settings = build(args.config, args.index)
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    watch = Stopwatch(torch.device("cuda" if cuda else "cpu"))
    PairStream.draw = watch.around("views", PairStream.draw)
    modules.cut_view = watch.around("views", modules.cut_view)
    module.network.features = watch.around("network forth", module.network.features)
    module.sample = watch.around("sampling", module.sample)
    module.contrast_terms = watch.around("losses", module.contrast_terms)
    rest = Rest(watch)
    trainer = L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision=args.precision or settings["precision"],
        max_steps=WARM_UP + args.steps,
        callbacks=[rest],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    trainer.fit(module, data)
    total = watch.now() - rest.started
    shares = {**watch.seconds, "network back and optimiser": total - sum(watch.seconds.values())}
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.config.stem}, {data.hparams.pairs_per_step} pairs a step, {'GPU' if cuda else f'CPU, {torch.get_num_threads()} threads'}")
    print(f"{args.steps / total:.3f} steps/s ({total / args.steps:.2f} s a step), peak memory {peak:.2f} GiB")
    print(", ".join(f"{part} {100 * seconds / total:.0f} %" for part, seconds in shares.items()))


if __name__ == "__main__":
    main()

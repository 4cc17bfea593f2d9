"""Fine-tune a bundled or imported model on a handful of own scans, and say what it was worth.

Scans named as held out are not trained on. The error before and after is that of the known-warp test on them (on all scans, and said so, where none
is held out), and that of landmarks where NAME.mrk.json files beside the scans name the same anatomy.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch

from UniversalAnatomicalEmbeddingLib.images import (
    Intensity,
    Volume,
    identify,
    read_volume,
    to_canonical,
    write_volume,
)
from UniversalAnatomicalEmbeddingLib.landmarks import PointList, read_points
from UniversalAnatomicalEmbeddingLib.models import Model, load_model, save_model
from UniversalAnatomicalEmbeddingLib.system import InputError

from ..batches.augment import Augmentation
from ..batches.data import PairDataModule
from ..learning.losses import ContrastOptions
from ..learning.modules import SelfSupervisedModule
from ..measure.evaluate import Case, errors, known_warp_cases, landmark_cases, summary
from ..rounds.align import write_index

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True)
class Options:
    """``steps`` of ``pairs_per_step`` pairs of views of at most ``max_view`` (z, y, x) voxels of 2 mm."""

    steps: int = 300
    learning_rate: float = 2e-4
    pairs_per_step: int = 2
    max_view: tuple[int, int, int] = (96, 96, 128)
    seed: int = 0


def main() -> None:
    """``python -m training.finetune --scans FOLDER --out mine.safetensors [--model ID] [--held-out NAME ..] [--steps 300]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scans", type=Path, required=True, help="folder of scans (NIfTI, NRRD, MHA), NAME.mrk.json beside those with landmarks"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="weights file to write (.safetensors); canonical scans go to a folder beside it"
    )
    parser.add_argument("--model", help="catalogue id or weights file to start from; default: the bundled model")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="NAME", help="names of scans to measure on and not to train on")
    for name, value in (("steps", 300), ("learning-rate", 2e-4), ("pairs-per-step", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--max-view", type=int, nargs=3, default=Options.max_view, metavar=("Z", "Y", "X"))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    options = Options(args.steps, args.learning_rate, args.pairs_per_step, tuple(args.max_view), args.seed)
    volumes = canonical_scans(args.scans)
    model = load_model(args.model)
    check(model, volumes, args.held_out)
    trained_on = [v for v in volumes if v.name not in args.held_out]
    cases = measured(volumes, args.scans, args.held_out)
    before = {k: summary(errors(model, c, args.device)) for k, c in cases.items()}
    print(table("before", before), flush=True)
    tuned = fine_tune(model, trained_on, args.out.with_name(args.out.stem + "_scans"), options, args.device)
    after = {k: summary(errors(tuned, c, args.device)) for k, c in cases.items()}
    print(table("after", after))
    card = tuned.card
    facts = {**card.training, "fine_tuned_from": model.card.id, "fine_tuning": {**asdict(options), "scans": len(trained_on)}}
    accuracy = {"fine_tuning": {"held_out": bool(args.held_out), "before": before, "after": after}}
    save_model(Model(tuned.network, replace(card, id=args.out.stem, training=facts, accuracy=accuracy)), args.out)
    print(f"{args.out}: use it as --model {args.out}. Its confidence is not calibrated (training.calibrate).")


def canonical_scans(folder: Path) -> list[Volume]:
    """All scans of a folder on canonical 2 mm grids, label maps left out."""
    paths = sorted(p for p in folder.iterdir() if p.name.endswith(ENDINGS) and ".seg." not in p.name)
    if not paths:
        raise InputError(f"{folder} holds no scan ({', '.join(ENDINGS)}).")
    volumes = []
    for path in paths:
        volume = identify(read_volume(path)).volume
        assert volume.modality is not None
        array, grid = to_canonical(volume, volume.modality)
        volumes.append(Volume(array, grid, volume.modality, volume.name))
    return volumes


def check(model: Model, volumes: list[Volume], held_out: list[str]) -> None:
    """InputError for scans that the model cannot take and for held-out names that no scan has."""
    names = [v.name for v in volumes]
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise InputError(f"No scan is named {', '.join(unknown)}; there are {', '.join(names)}.")
    if set(held_out) == set(names):
        raise InputError("All scans are held out; leave at least one to train on.")
    foreign = sorted({v.modality or "" for v in volumes} - set(model.card.modality))
    if foreign:
        raise InputError(
            f"Some scans are {', '.join(foreign).upper()}, model {model.card.id} is for {', '.join(model.card.modality).upper()}."
        )


def measured(volumes: list[Volume], folder: Path, held_out: list[str]) -> dict[str, list[Case]]:
    """The known-warp and the landmark cases, on the held-out scans where there are any."""
    chosen = [v for v in volumes if not held_out or v.name in held_out]
    files = {v.name: folder / f"{v.name}.mrk.json" for v in volumes}
    listed: list[tuple[Volume, PointList]] = [(v, read_points(files[v.name])) for v in volumes if files[v.name].is_file()]
    cases = {"known warp": known_warp_cases(chosen), "landmarks": landmark_cases(listed, [v.name for v in chosen])}
    where = "held-out" if held_out else "training"
    return {f"{k}, {where} scans": c for k, c in cases.items() if c}


def fine_tune(model: Model, volumes: list[Volume], work: Path, options: Options, device: str = "auto") -> Model:
    """A copy of ``model`` trained on ``volumes``, which are kept in the folder ``work``. Batch norm stays as it is; the calibration is dropped."""
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for volume in volumes:
        path = work / f"{volume.name}.nii.gz"
        write_volume(replace(volume, array=np.rint(volume.array).astype(np.int16) if volume.modality == "ct" else volume.array), path)
        rows.append({"path": str(path.resolve()), "modality": str(volume.modality), "frame": volume.name})
    write_index(work / "index.csv", rows)
    intensity, spread = unit_scale(model.card.intensity)
    data = PairDataModule(
        work / "index.csv", Augmentation(), options.pairs_per_step, options.max_view, 0.0, seed=options.seed, intensity=intensity
    )
    network = copy.deepcopy(model.network).requires_grad_(True)
    module = SelfSupervisedModule(
        network,
        ContrastOptions(),
        learning_rate=options.learning_rate,
        warmup=min(20, options.steps),
        decay=max(1, options.steps // 2),
        freeze_norm=0,
        input_range=spread,
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    accelerator = "auto" if device == "auto" else {"cuda": "gpu"}.get(device.partition(":")[0], device)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=options.steps,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        default_root_dir=work,
        **quiet,
    )
    torch.manual_seed(options.seed)
    trainer.fit(module, data)
    return Model(network.cpu().eval().requires_grad_(False), replace(model.card, calibration=None))


def unit_scale(intensity: Intensity) -> tuple[Intensity, tuple[float, float]]:
    """The same scaling to -1..1, which the views need, and the range that it stands for."""
    values = [*(v for _, v in intensity.ct_knots), *intensity.mr_range]
    low, high = min(values), max(values)

    def unit(value: float) -> float:
        return 2 * (value - low) / (high - low) - 1

    knots = tuple((hu, unit(v)) for hu, v in intensity.ct_knots)
    return replace(intensity, ct_knots=knots, mr_range=(unit(intensity.mr_range[0]), unit(intensity.mr_range[1]))), (low, high)


def table(when: str, figures: dict[str, dict[str, float]]) -> str:
    """A line per measurement."""
    lines = [f"{when}: {what}: " + ", ".join(f"{k} {v:g}" for k, v in values.items()) for what, values in figures.items()]
    return "\n".join(lines)

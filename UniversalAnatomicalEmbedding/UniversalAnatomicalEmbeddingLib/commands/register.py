"""The command ``uae register``: its arguments and the files it writes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..landmarks.points import read_points
from ..options import RegisterOptions, Stage
from ..system.errors import InputError
from ..system.files import writable_folder, write_atomically
from ..system.progress import Progress

if TYPE_CHECKING:
    from ..images.modality import Identified
    from ..registration import Registration
    from ..session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, added to ``parser``."""
    parser.add_argument("--fixed", required=True, help="scan file or DICOM folder that the result is laid out on")
    parser.add_argument("--moving", required=True, help="scan that is brought into the frame of the fixed one")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--stages", choices=get_args(Stage), default=RegisterOptions().stage, help="how far to go (default: affine)")
    parser.add_argument("--refine", action="store_true", help="improve the linear map by mutual information, bounded around the start")
    parser.add_argument("--inverse-consistent", action="store_true", help="average the deformable field with the inverse of the way back")
    parser.add_argument("--landmarks-fixed", help=".mrk.json, .fcsv or .csv; with --landmarks-moving these alone decide, paired by name")
    parser.add_argument("--landmarks-moving", help="the same landmarks in the moving scan")
    parser.add_argument("--seed", type=int, default=0, help="of the keypoints and all sampling")


def run(args: argparse.Namespace, session: Callable[[], Session], read: Callable[[str], Identified], progress: Progress) -> str:
    """Register, write ``transform.h5``, ``transform.tfm``, ``registered.nii.gz``, ``checkerboard.png``, ``report.json``; a summary to be shown."""
    from ..images.volume import write_volume
    from ..registration import Transform, pair_landmarks, write_transform
    from ..report.figures import checkerboard

    if (args.landmarks_fixed is None) != (args.landmarks_moving is None):
        raise InputError("Landmarks were given for one scan only; give --landmarks-fixed and --landmarks-moving, or neither.")
    options = RegisterOptions(stage=args.stages, refine=args.refine, inverse_consistent=args.inverse_consistent, seed=args.seed)
    labels, landmarks = None, None
    if args.landmarks_fixed:
        labels, landmarks = pair_landmarks(read_points(args.landmarks_fixed), read_points(args.landmarks_moving))
    taken = {"fixed": read(args.fixed), "moving": read(args.moving)}
    fixed, moving = taken["fixed"].volume, taken["moving"].volume
    writable_folder(args.out, "--out")
    result = session().register(fixed, moving, options, progress, landmarks=landmarks)
    write_transform(result.transform, args.out / "transform.h5")
    write_transform(result.transform, args.out / "transform.tfm")
    registered = result.transform.resample(moving, fixed.grid)
    write_volume(registered, args.out / "registered.nii.gz")
    before = Transform(np.eye(4)).resample(moving, fixed.grid)
    checkerboard(fixed, {"before": before, f"after, {result.stage}": registered}, _middle(result), args.out / "checkerboard.png")
    said = {side: found.text for side, found in taken.items()}
    figures = {"fixed": args.fixed, "moving": args.moving, "taken_for": said, **result.report()}
    with write_atomically(args.out / "report.json") as staged:
        staged.write_text(json.dumps({**figures, "landmarks": _rows(result, labels)}, indent=1), encoding="utf-8")
    return "\n".join([*(f"{side}: {text}" for side, text in said.items()), _summary(result, args.out)])


def _middle(result: Registration) -> np.ndarray:
    """The centre of the anatomy that both scans show."""
    points = result.fixed_lps[result.inlier] if result.inlier.any() else result.fixed_lps
    return np.asarray(np.median(points, axis=0))


def _rows(result: Registration, labels: Sequence[str] | None) -> list[dict[str, Any]] | None:
    """Residual and leave-one-out error of every landmark, where landmarks decided."""
    if labels is None or result.loo_mm is None:
        return None
    return [
        {"label": label, "residual_mm": float(residual), "leave_one_out_tre_mm": float(loo) if np.isfinite(loo) else None}
        for label, residual, loo in zip(labels, result.residual_mm, result.loo_mm, strict=True)
    ]


def _summary(result: Registration, out: Path) -> str:
    from ..registration import outcome

    written = "transform.h5, transform.tfm, registered.nii.gz, checkerboard.png and report.json"
    return f"{outcome(result.report())}\nwrote {out}/{written} after {result.seconds:.1f} s"

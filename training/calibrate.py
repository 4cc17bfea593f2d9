"""Fit the confidence of a model: how its similarities turn into probabilities, learned on training scans with landmarks.

Queries whose answer is known come from all ordered pairs of landmark scans and, with an index, from scans of one patient in one frame (other
contrasts, MR and CT), where a point keeps its place. Absent ones come from targets that were cut so that a point lies outside, and from scans of
other body parts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from UniversalAnatomicalEmbeddingLib.catalogue import Model, load_model, save_model
from UniversalAnatomicalEmbeddingLib.errors import InputError
from UniversalAnatomicalEmbeddingLib.matching import Searchable
from UniversalAnatomicalEmbeddingLib.matching.confidence import FEATURES, Calibration, features, probability
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.points import read_points
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.volume import Volume, read_volume

from .export import register
from .scan import read_index

CLEARLY_OUTSIDE_MM = 15.0
KEPT_SHARES = ((0.0, 0.6), (0.4, 1.0))
TRUNK_ONLY = ("carina", "bronch", "aorta", "pulmonary", "kidney", "spinal_canal_at_carina")
L2 = 0.02
ELSEWHERE_STEP = 3
ABSENT_BELOW = 0.5
FRAME_POINTS = 12
FRAME_STEP_MM = 12.0

Rows = tuple[NDArray, NDArray, NDArray]


@dataclass(frozen=True, eq=False)
class Samples:
    """Features (N, F) of queries, whether the target shows the anatomy, and whether the answer was within 10 mm."""

    x: NDArray[np.float64]
    present: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def main() -> None:
    """``python -m training.calibrate --model m.safetensors --scans FOLDER [--index runs/index.csv] [--elsewhere 'sts*'] [--catalogue ..]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="weights file; its card is rewritten with the calibration")
    parser.add_argument("--scans", type=Path, required=True, help="folder of CT scans, NAME.mrk.json beside those with landmarks")
    parser.add_argument(
        "--elsewhere", default="sts*_ct.nii.gz", help="scans of the folder that show no trunk: every trunk landmark is absent"
    )
    parser.add_argument("--index", type=Path, help="index file of training.prepare, for pairs of scans that share a frame")
    parser.add_argument("--catalogue", type=Path, help="catalogue.json beside --model to update")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    model = load_model(args.model)
    session, options = Session(model, args.device), MatchOptions()
    parts = {"landmarks": collect(session, args.scans, args.elsewhere, options)}
    if args.index:
        parts["frames"] = collect_frames(session, read_index(args.index), options)
    calibration = fit(joined(list(parts.values())))
    card = replace(
        model.card, calibration={"correct": calibration.correct, "present": calibration.present, "absent_below": calibration.absent_below}
    )
    save_model(Model(model.network, card), args.model)
    if args.catalogue:
        register(card, args.model, args.catalogue)
    for name, samples in parts.items():
        print(f"{name}: {report(samples, calibration)}")


def collect(session: Session, folder: Path, elsewhere: str, options: MatchOptions) -> Samples:
    """Match every landmark of every scan into every other scan, whole and cut, and into the scans of other body parts."""
    scans = {p.name.removesuffix(".mrk.json"): _positions(p) for p in sorted(folder.glob("*.mrk.json"))}
    templates: dict[str, Searchable] = {}
    rows: list[Rows] = []
    for name in scans:
        templates[name] = session.embed(read_volume(folder / f"{name}.nii.gz", "ct"))
    for name, truth in scans.items():
        whole = read_volume(folder / f"{name}.nii.gz", "ct")
        targets = [templates[name], *(session.embed(cut(whole, share)) for share in KEPT_SHARES)]
        for other in (n for n in scans if n != name):
            labels = [k for k in scans[other] if k in truth]
            rows += [_query(session, templates[other], scans[other], target, truth, labels, options) for target in targets]
    for path in sorted(folder.glob(elsewhere))[::ELSEWHERE_STEP]:
        target = session.embed(read_volume(path, "ct"))
        for name, points in scans.items():
            labels = [k for k in points if any(t in k for t in TRUNK_ONLY)]
            rows.append(_query(session, templates[name], points, target, {}, labels, options))
    return joined([Samples(*r) for r in rows])


def collect_frames(session: Session, index: list[dict[str, str]], options: MatchOptions) -> Samples:
    """Match random body points of a scan into another scan of its frame, whole and cut; one pair of every frame that has two scans or more."""
    frames: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in index:
        frames[row["frame"]].append(row)
    parts = []
    rng = np.random.default_rng(0)
    for members in (m for m in frames.values() if len(m) > 1):
        fixed, moving = (members[i] for i in rng.permutation(len(members))[:2])
        template = session.embed(read_volume(fixed["path"], fixed["modality"]))
        whole = read_volume(moving["path"], moving["modality"])
        points = rng.permutation(template.lattice_points(FRAME_STEP_MM))[:FRAME_POINTS]
        named = {str(i): p for i, p in enumerate(points)}
        for target in (session.embed(v) for v in (whole, *(cut(whole, share) for share in KEPT_SHARES))):
            parts.append(Samples(*_query(session, template, named, target, named, list(named), options)))
    if not parts:
        raise InputError("No two scans of the index share a frame. Leave --index out, or prepare scans of one patient in one frame.")
    return joined(parts)


def joined(parts: list[Samples]) -> Samples:
    """All samples together."""
    return Samples(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("x", "present", "correct")))


def cut(volume: Volume, share: tuple[float, float]) -> Volume:
    """The slices between two shares of the scan's length."""
    first, last = (round(s * volume.grid.shape_zyx[0]) for s in share)
    array = volume.array[first:last]
    return replace(volume, array=array, grid=volume.grid.cropped([first, 0, 0], array.shape))


def _query(session, template, points, target, truth, labels, options) -> Rows:
    """Features, presence and correctness of the labels that are clearly in or clearly out of the target."""
    outside = {k: k not in truth or target.embedding.grid.outside_mm(truth[k])[0] > CLEARLY_OUTSIDE_MM for k in labels}
    inside = {k: k in truth and bool(target.embedding.contains(truth[k])[0]) for k in labels}
    labels = [k for k in labels if (outside[k] or inside[k]) and template.embedding.contains(points[k])[0]]
    if not labels:
        return np.empty((0, len(FEATURES))), np.empty(0, bool), np.empty(0, bool)
    matches = session.match(template, np.array([points[k] for k in labels]), target, options)
    x = features(
        *(np.array([getattr(m, f) for m in matches]) for f in ("similarity", "coarse", "margin", "cycle_mm", "spread_mm", "beyond_mm"))
    )
    present = np.array([inside[k] for k in labels])
    correct = np.array([inside[k] and np.linalg.norm(m.point_lps - truth[k]) <= 10.0 for k, m in zip(labels, matches, strict=True)])
    return x, present, correct


def _positions(path: Path) -> dict[str, NDArray]:
    return {p.label: np.array(p.position_lps) for p in read_points(path) if p.position_lps is not None}


def fit(samples: Samples) -> Calibration:
    """Both logistic models; absent is what is more likely not there than there."""
    correct = logistic(samples.x[samples.present], samples.correct[samples.present])
    present = logistic(samples.x, samples.present)
    return Calibration(correct, present, ABSENT_BELOW)


def logistic(x: NDArray, y: NDArray) -> tuple[float, ...]:
    """Ridge logistic regression on standardised features; returns (weights..., intercept) for raw features."""
    mean, sd = x.mean(0), x.std(0) + 1e-9
    z = np.hstack([(x - mean) / sd, np.ones((len(x), 1))])
    sign = np.where(y, 1.0, -1.0)

    def loss(w: NDArray) -> tuple[float, NDArray]:
        margin = sign * (z @ w)
        value = np.logaddexp(0, -margin).mean() + L2 * (w[:-1] ** 2).sum()
        slope = -(sign / (1 + np.exp(margin)))[:, None] * z
        return value, slope.mean(0) + 2 * L2 * np.append(w[:-1], 0)

    w = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B").x
    scaled = w[:-1] / sd
    return (*(float(v) for v in scaled), float(w[-1] - scaled @ mean))


def report(samples: Samples, calibration: Calibration) -> str:
    """What the fit achieves on its own data."""
    p, q = probability(samples.x, calibration.present), probability(samples.x, calibration.correct)
    called = p < calibration.absent_below
    return (
        f"{samples.present.sum()} present ({100 * samples.correct[samples.present].mean():.0f} % within 10 mm), {(~samples.present).sum()} absent; "
        f"absence sensitivity {100 * called[~samples.present].mean():.1f} %, specificity {100 * (~called[samples.present]).mean():.1f} %; "
        f"mean confidence {q[samples.correct].mean():.2f} when correct, {q[samples.present & ~samples.correct].mean():.2f} when wrong"
    )


if __name__ == "__main__":
    main()

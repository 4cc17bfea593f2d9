"""Fit the confidence of a model: how its similarities turn into probabilities, learned on training scans (:mod:`.known_queries`)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from UniversalAnatomicalEmbeddingLib.embedding import Cache, default_folder
from UniversalAnatomicalEmbeddingLib.matching import Calibration, probability
from UniversalAnatomicalEmbeddingLib.models import Model, load_model, save_model
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.session import Session

from ..scans.scan import read_index
from .export import register
from .known_queries import Samples, frame_queries, joined, landmark_queries, structure_queries

L2 = 0.02
ABSENT_BELOW = 0.5


def main() -> None:
    """``python -m training.calibrate --model m.safetensors --scans FOLDER [--structures FOLDER] [--index runs/index.csv] [--catalogue ..]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="weights file; its card is rewritten with the calibration")
    parser.add_argument("--scans", type=Path, required=True, help="folder of CT scans, NAME.mrk.json beside those with landmarks")
    parser.add_argument(
        "--elsewhere", default="sts*_ct.nii.gz", help="scans of the folder that show no trunk: every trunk landmark is absent"
    )
    parser.add_argument("--structures", type=Path, help="folder of head-neck CT scans with NAME.seg.nii.gz and NAME.seg.json beside each")
    parser.add_argument("--index", type=Path, help="index file of training.prepare, for pairs of scans that share a frame")
    parser.add_argument("--catalogue", type=Path, help="catalogue.json beside --model to update")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    loaded = load_model(args.model)
    model = Model(loaded.network, replace(loaded.card, calibration=None))
    session, options = Session(model, args.device, Cache(default_folder())), MatchOptions()
    parts = {"landmarks": landmark_queries(session, args.scans, args.elsewhere, options)}
    if args.structures:
        parts["structures"] = structure_queries(session, args.structures, options)
    if args.index:
        parts["frames"] = frame_queries(session, read_index(args.index), options)
    calibration = fit(joined(list(parts.values())))
    card = replace(
        model.card, calibration={"correct": calibration.correct, "present": calibration.present, "absent_below": calibration.absent_below}
    )
    save_model(Model(model.network, card), args.model)
    if args.catalogue:
        register(card, args.model, args.catalogue)
    for name, samples in parts.items():
        print(f"{name}: {report(samples, calibration)}")


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

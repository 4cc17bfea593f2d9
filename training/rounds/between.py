"""Correspondences between patients: what the current model finds in pairs of scans, where it agrees with itself.

The network then learns from them (the rounds of UAE-M, section 3.3, between patients instead of between contrasts). The anchors that two scans agree
on (:mod:`matching.guide`) carry a lattice of body points from one to the other; those that come back, and around which the anchors agree, are kept.
"""

from __future__ import annotations

import argparse
import random
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from UniversalAnatomicalEmbeddingLib.images import read_volume
from UniversalAnatomicalEmbeddingLib.matching import Searchable, build_guide
from UniversalAnatomicalEmbeddingLib.session import Session

from ..scans.common_points import CommonPoints, write_common_points
from ..scans.scan import read_index, scan_name

POINT_STEP_MM = 8.0
MOST_SPREAD_MM = 12.0
RETURN_MM = 8.0
LEAST_POINTS = 500


def main() -> None:
    """``python -m training.between --index runs/index.csv --out runs/between.npz [--model ID] [--scans PATTERN] [--modality ct] [--pairs N]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="index file as training.prepare writes it")
    parser.add_argument("--out", type=Path, required=True, help="file of common points to write (.npz)")
    parser.add_argument("--model", help="catalogue id or weights file of the current model")
    parser.add_argument("--scans", default="*", help="pattern of the names of the scans to pair, ! in front for all others; default all")
    parser.add_argument("--modality", default="ct")
    parser.add_argument("--pairs", type=int, help="how many pairs to try, drawn at random; default all")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    session = Session(args.model, args.device)
    wanted, pattern = not args.scans.startswith("!"), args.scans.removeprefix("!")
    rows = [r for r in read_index(args.index) if r["modality"] == args.modality and fnmatch(scan_name(r["path"]), pattern) == wanted]
    scans = {scan_name(r["path"]): session.embed(read_volume(r["path"], r["modality"])) for r in rows}
    frames = {scan_name(r["path"]): r["frame"] for r in rows}
    common: CommonPoints = {}
    pairs = [(a, b) for a, b in combinations(scans, 2) if frames[a] != frames[b]]
    for a, b in random.Random(0).sample(pairs, min(len(pairs), args.pairs or len(pairs))):
        points = common_points(scans[a], scans[b])
        if len(points) >= LEAST_POINTS:
            common[a, b] = points
        print(f"{a} {b}: {len(points)} points{'' if len(points) >= LEAST_POINTS else ', left out'}", flush=True)
    write_common_points(args.out, common)
    print(f"{len(common)} pairs of {len(scans)} scans -> {args.out}")


def common_points(fixed: Searchable, moving: Searchable) -> Tensor:
    """Points (N, 6) that both scans show (:data:`CommonPoints`): body points of the fixed scan, 8 mm apart, and their places in the moving one."""
    there, back = build_guide(fixed, moving), build_guide(moving, fixed)
    points = fixed.lattice_points(POINT_STEP_MM)
    places, spread = there.predict(points)
    returned, spread_back = back.predict(places)
    kept = (np.maximum(spread, spread_back) <= MOST_SPREAD_MM) & (np.linalg.norm(returned - points, axis=1) <= RETURN_MM)
    kept &= moving.embedding.contains(places)
    index = [s.embedding.grid.world_to_index(p[kept]) for s, p in ((fixed, points), (moving, places))]
    return torch.from_numpy(np.hstack(index)).float()

"""Queries whose answer is known, on training scans: what the confidence of a model is fitted to.

Landmarks of CT scans, centroids of labelled structures of head-neck scans, and points of scans that share a frame (other contrasts, MR and CT), where
a point keeps its place. Targets are shown whole and cut in several ways, so that some points are absent; scans of other body parts lack all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from UniversalAnatomicalEmbeddingLib.images import Volume, read_volume
from UniversalAnatomicalEmbeddingLib.landmarks import read_points
from UniversalAnatomicalEmbeddingLib.matching import FEATURES, Evidence, Searchable
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system import InputError

from ..scans.labels import read_table

CLEARLY_OUTSIDE_MM = 10.0
WITHIN_MM = 10.0
WHOLE = ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
CUTS = {  # shares of the scan that are kept along z, y, x
    "lower part": ((0.0, 0.6), (0.0, 1.0), (0.0, 1.0)),
    "upper part": ((0.4, 1.0), (0.0, 1.0), (0.0, 1.0)),
    "slab": ((0.4, 0.62), (0.0, 1.0), (0.0, 1.0)),
    "right half": ((0.0, 1.0), (0.0, 1.0), (0.0, 0.5)),
    "left half": ((0.0, 1.0), (0.0, 1.0), (0.5, 1.0)),
    "front": ((0.0, 1.0), (0.0, 0.6), (0.0, 1.0)),
}
FRAME_CUTS = ("lower part", "upper part", "right half")
TEMPLATES_A_CUT = 2
TRUNK_ONLY = ("carina", "bronch", "aorta", "pulmonary", "kidney", "spinal_canal_at_carina")
ELSEWHERE_STEP = 6
HEADNECK_STEP = 16
FRAME_POINTS = 12
FRAMES_STEP = 2
FRAME_STEP_MM = 12.0
FEWEST_VOXELS = 5
TUBES = ("spinal", "esophagus")  # where their middle lies depends on how far they were drawn

Shares = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
Places = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Samples:
    """Features (N, F) of queries, whether the target shows the anatomy, and whether the answer was within 10 mm."""

    x: NDArray[np.float64]
    present: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def landmark_queries(session: Session, folder: Path, elsewhere: str, options: MatchOptions) -> Samples:
    """Landmarks of every CT of ``folder`` in every other, whole, and of two others in its parts; and in the scans of other body parts."""
    places = {p.name.removesuffix(".mrk.json"): landmarks(p) for p in sorted(folder.glob("*.mrk.json"))}
    volumes = {name: read_volume(folder / f"{name}.nii.gz", "ct") for name in places}
    scans = {name: session.embed(volume) for name, volume in volumes.items()}
    rng = np.random.default_rng(0)
    parts = []
    for name, truth in places.items():
        others = [n for n in places if n != name and places[n].keys() & truth.keys()]
        common = {n: {k: places[n][k] for k in places[n].keys() & truth.keys()} for n in others}
        parts += [queried(session, scans[n], common[n], scans[name], truth, options) for n in others]
        for target in shown_in_part(session, volumes[name], CUTS):
            chosen = rng.permutation(np.array(others, dtype=object))[:TEMPLATES_A_CUT]
            parts += [queried(session, scans[n], common[n], target, truth, options) for n in chosen]
    for path in sorted(folder.glob(elsewhere))[::ELSEWHERE_STEP]:
        target = session.embed(read_volume(path, "ct"))
        for name, points in places.items():
            trunk = {k: p for k, p in points.items() if any(word in k for word in TRUNK_ONLY)}
            parts.append(queried(session, scans[name], trunk, target, {}, options))
    return joined(parts)


def structure_queries(session: Session, folder: Path, options: MatchOptions) -> Samples:
    """Centroids of the labelled structures of head-neck CTs of ``folder`` (``NAME.seg.nii.gz`` with a table beside ``NAME.nii.gz``) in the next
    such scan, whole and in parts."""
    files = [p for p in sorted(folder.glob("*.nii.gz")) if not p.name.endswith(".seg.nii.gz")][::HEADNECK_STEP]
    parts, before = [], None
    for path in files:
        volume, truth = read_volume(path, "ct"), centroids(path)
        scan = session.embed(volume)
        if before is not None:
            template, points = before
            common = {k: points[k] for k in points.keys() & truth.keys()}
            targets = [scan, *(shown_in_part(session, volume, FRAME_CUTS) if common else ())]
            parts += [queried(session, template, common, target, truth, options) for target in targets]
        before = scan, truth
    return joined(parts)


def frame_queries(session: Session, index: list[dict[str, str]], options: MatchOptions) -> Samples:
    """Points of a scan in another one of its frame, whole and in parts; one pair of every second frame that has two scans or more."""
    frames: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in index:
        frames[row["frame"]].append(row)
    parts = []
    rng = np.random.default_rng(0)
    for members in [m for m in frames.values() if len(m) > 1][::FRAMES_STEP]:
        fixed, moving = (members[i] for i in rng.permutation(len(members))[:2])
        template = session.embed(read_volume(fixed["path"], fixed["modality"]))  # type: ignore[arg-type]
        whole = read_volume(moving["path"], moving["modality"])  # type: ignore[arg-type]
        points = rng.permutation(template.lattice_points(FRAME_STEP_MM))[:FRAME_POINTS]
        named = {str(i): p for i, p in enumerate(points)}
        for target in (session.embed(whole), *shown_in_part(session, whole, FRAME_CUTS)):
            parts.append(queried(session, template, named, target, named, options))
    if not parts:
        raise InputError("No two scans of the index share a frame. Leave --index out, or prepare scans of one patient in one frame.")
    return joined(parts)


def queried(session: Session, template: Searchable, points: Places, target: Searchable, truth: Places, options: MatchOptions) -> Samples:
    """The ``points`` of ``template`` that are clearly in or clearly out of ``target``, matched; where ``truth`` lacks one, it is out."""
    grid = target.embedding.grid
    outside = {k: k not in truth or grid.outside_mm(truth[k])[0] > CLEARLY_OUTSIDE_MM for k in points}
    inside = {k: k in truth and bool(grid.contains(truth[k])[0]) for k in points}
    names = [k for k, p in points.items() if (outside[k] or inside[k]) and template.embedding.contains(p)[0]]
    if not names:
        return Samples(np.empty((0, len(FEATURES))), np.empty(0, bool), np.empty(0, bool))
    matches = session.match(template, np.array([points[k] for k in names]), target, options)
    evidence = Evidence(**{f.name: np.array([getattr(m, f.name) for m in matches]) for f in fields(Evidence)})
    present = np.array([inside[k] for k in names])
    near = [inside[k] and np.linalg.norm(m.point_lps - truth[k]) <= WITHIN_MM for k, m in zip(names, matches, strict=True)]
    return Samples(evidence.features(), present, np.array(near))


def joined(parts: list[Samples]) -> Samples:
    """All samples together."""
    return Samples(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("x", "present", "correct")))


def shown_in_part(session: Session, volume: Volume, cuts: dict[str, Shares] | tuple[str, ...]) -> Iterator[Searchable]:
    """The scan embedded anew for each of some :data:`CUTS`."""
    return (session.embed(cut(volume, CUTS[name])) for name in cuts)


def cut(volume: Volume, shares: Shares) -> Volume:
    """The part of a scan between two shares of its length along z, y and x."""
    ends = [(round(a * n), max(round(b * n), round(a * n) + 1)) for (a, b), n in zip(shares, volume.grid.shape_zyx, strict=True)]
    array = volume.array[tuple(slice(a, b) for a, b in ends)]
    return replace(volume, array=array, grid=volume.grid.cropped([a for a, _ in ends], array.shape))


def landmarks(path: Path) -> Places:
    """Positions (3,) LPS mm of a landmark file by name."""
    return {p.label: np.array(p.position_lps) for p in read_points(path) if p.position_lps is not None}


def centroids(path: Path) -> Places:
    """Centroids (3,) LPS mm of the structures labelled beside the scan at ``path``, of those that touch no border."""
    stem = path.name.removesuffix(".nii.gz")
    labels = read_volume(path.with_name(f"{stem}.seg.nii.gz"), "ct")
    found = {}
    for first, last, name in read_table(path.with_name(f"{stem}.seg.json")):
        cells = np.argwhere((labels.array >= first) & (labels.array <= last))
        if any(word in name for word in TUBES):
            continue
        if len(cells) >= FEWEST_VOXELS and cells.min() > 0 and (cells.max(0) < np.array(labels.array.shape) - 1).all():
            found[name] = labels.grid.index_to_world(cells.mean(0, keepdims=True))[0]
    return found

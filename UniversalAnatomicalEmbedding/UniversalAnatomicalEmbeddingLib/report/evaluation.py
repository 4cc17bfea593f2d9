"""Measure matching against known truth: every query stays in the denominator."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..images.grid import FloatArray
from ..images.modality import Identified, identify
from ..images.volume import Modality, read_volume
from ..landmarks.points import PointList, read_points
from ..matching import Match, Searchable
from ..options import MatchOptions
from ..session import Session
from ..system.errors import InputError
from ..system.progress import Progress, silent

IDENTITY_POINTS = 200
IDENTITY_SEED = 20_200
WITHIN_MM = 10.0


@dataclass(frozen=True)
class Pair:
    """One template and target scan. ``truth`` "landmarks": points shared by name; "identity": both scans lie in one physical frame."""

    template: Path
    target: Path
    template_landmarks: Path | None
    target_landmarks: Path | None
    absent: tuple[str, ...]
    truth: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """One query: names of the scans, where the landmark is in the template, what was answered, and the truth (None: known to be absent)."""

    template: str
    target: str
    label: str
    template_point: FloatArray
    match: Match
    truth: FloatArray | None

    @property
    def error_mm(self) -> float | None:
        """Distance of the answered position from the truth, whatever the verdict; None for an absent landmark."""
        return None if self.truth is None else float(np.linalg.norm(self.match.point_lps - self.truth))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All outcomes with the seconds spent on embedding and on matching."""

    outcomes: tuple[Outcome, ...]
    seconds_embed: float
    seconds_match: float
    scans: int


def read_pairs(path: str | Path) -> list[Pair]:
    """Read PAIRS.json: objects with template/target (and their landmarks, optionally absent names), or fixed/moving/truth. Paths are relative to it."""
    path = Path(path)
    try:
        items = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}). It must be a list of pairs.") from error
    if not isinstance(items, list) or not items or not all(isinstance(i, dict) for i in items):
        raise InputError(f"{path} must hold a non-empty list of pair objects.")
    return [_parse_pair(item, path, n) for n, item in enumerate(items, 1)]


def _parse_pair(item: dict[str, Any], path: Path, number: int) -> Pair:
    def file(key: str) -> Path | None:
        value = item.get(key)
        if value is not None and not isinstance(value, str):
            raise InputError(f"Pair {number} of {path}: {key} is {value}; a path in quotes is needed.")
        return path.parent / value if value else None

    absent = item.get("absent") or []
    if not isinstance(absent, list) or not all(isinstance(name, str) for name in absent):
        raise InputError(f"Pair {number} of {path}: absent is {absent}; a list of landmark names is needed.")
    if item.get("truth") == "identity":
        fixed, moving = file("fixed"), file("moving")
        if fixed and moving:
            return Pair(fixed, moving, None, None, (), "identity")
    template, target, landmarks = file("template"), file("target"), file("template_landmarks")
    if not (template and target and landmarks):
        raise InputError(f'Pair {number} of {path} needs template, template_landmarks and target, or fixed, moving and truth: "identity".')
    return Pair(template, target, landmarks, file("target_landmarks"), tuple(absent), "landmarks")


def evaluate(
    pairs: Sequence[Pair],
    session: Session,
    options: MatchOptions | None = None,
    modality: Modality | None = None,
    progress: Progress = silent,
    keep: Callable[[Identified], None] = lambda found: None,
) -> Evaluation:
    """Match every pair; each scan is read and embedded once. ``keep`` is handed every scan as it was taken."""
    embedded: dict[Path, Searchable] = {}
    outcomes: list[Outcome] = []
    seconds_embed = seconds_match = 0.0
    for n, pair in enumerate(pairs):
        for path in (pair.template, pair.target):
            if path not in embedded:
                progress(n / len(pairs), f"embedding {path.name}")
                volume = read_volume(path, modality)
                volume = replace(volume, name=unique_name(volume.name, [s.embedding.name for s in embedded.values()]))
                found = identify(volume)
                keep(found)
                start = time.perf_counter()
                embedded[path] = session.embed(found.volume)
                seconds_embed += time.perf_counter() - start
        template, target = embedded[pair.template], embedded[pair.target]
        labels, points, truth = _queries(pair, template, target)
        progress(n / len(pairs), f"{template.embedding.name} -> {target.embedding.name}")
        start = time.perf_counter()
        matches = session.match(template, points, target, options)
        seconds_match += time.perf_counter() - start
        names = (template.embedding.name, target.embedding.name)
        outcomes += [Outcome(*names, label, p, m, t) for label, p, m, t in zip(labels, points, matches, truth, strict=True)]
    progress(1.0, "done")
    return Evaluation(tuple(outcomes), seconds_embed, seconds_match, len(embedded))


def unique_name(name: str, taken: Sequence[str]) -> str:
    """The name, or with a number where it is taken: files of two folders may have the same (upper and lower case count as one)."""
    used = {other.casefold() for other in taken}
    numbered = (f"{name}_{n}" for n in itertools.count(2))
    return name if name.casefold() not in used else next(new for new in numbered if new.casefold() not in used)


def _queries(pair: Pair, template: Searchable, target: Searchable) -> tuple[list[str], FloatArray, list[FloatArray | None]]:
    """Labels, template positions and true target positions (None: absent) of one pair."""
    if pair.truth == "identity":
        points = shared_body_points(template, target)
        return [f"p{i:03d}" for i in range(len(points))], points, list(points)
    known = _positions(read_points(pair.template_landmarks or ""))
    if pair.target_landmarks is None:
        truth: dict[str, FloatArray | None] = dict.fromkeys(known)
    else:
        present = _positions(read_points(pair.target_landmarks))
        truth = {label: present.get(label) for label in known if label in present or label in pair.absent}
    labels = list(truth)
    return labels, np.array([known[k] for k in labels]).reshape(-1, 3), [truth[k] for k in labels]


def shared_body_points(template: Searchable, target: Searchable) -> FloatArray:
    """200 seeded random points (N, 3) of the template's body that lie in the target's body too, for scans in one frame."""
    rng = np.random.default_rng(IDENTITY_SEED)
    cells = np.argwhere(template.embedding.anatomy)
    chosen = cells[rng.permutation(len(cells))] + rng.uniform(-0.5, 0.5, (len(cells), 3))
    points = template.embedding.fine_grid.index_to_world(chosen)
    points = points[template.embedding.contains(points) & target.embedding.contains(points)]
    index = np.rint(target.embedding.fine_grid.world_to_index(points)).astype(int)
    index = np.clip(index, 0, np.array(target.shape) - 1)
    return points[target.embedding.anatomy[tuple(index.T)]][:IDENTITY_POINTS]


def _positions(points: PointList) -> dict[str, FloatArray]:
    return {p.label: np.array(p.position_lps) for p in points if p.position_lps is not None}


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of ``evaluation.json``. Distances are of the answered positions; a present landmark called absent counts as a miss in ``cpm10``."""
    present = [o for o in evaluation.outcomes if o.truth is not None]
    absent = [o for o in evaluation.outcomes if o.truth is None]
    by_label: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in present:
        by_label[outcome.label].append(outcome)
    return {
        **_distances(present),
        "absent_sensitivity": _share([o.match.status == "absent" for o in absent]),
        "absent_specificity": _share([o.match.status != "absent" for o in present]),
        "n_absent": len(absent),
        "scans": evaluation.scans,
        "seconds_embed": evaluation.seconds_embed,
        "seconds_match": evaluation.seconds_match,
        "by_landmark": {label: _distances(group) for label, group in sorted(by_label.items())},
    }


def _distances(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    if not outcomes:
        return {"n": 0, "mean_mm": None, "sd_mm": None, "median_mm": None, "p95_mm": None, "cpm10": None}
    errors = np.array([o.error_mm for o in outcomes])
    answered = np.array([o.match.status != "absent" for o in outcomes])
    return {
        "n": len(errors),
        "mean_mm": float(errors.mean()),
        "sd_mm": float(errors.std()),
        "median_mm": float(np.median(errors)),
        "p95_mm": float(np.percentile(errors, 95)),
        "cpm10": float(((errors <= WITHIN_MM) & answered).mean()),
    }


def _share(hits: list[bool]) -> float | None:
    return float(np.mean(hits)) if hits else None

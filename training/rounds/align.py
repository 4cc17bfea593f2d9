"""One round of UAE-M (section 3.3): register scans of one patient with the current model, and keep the pairs that it can be trusted on.

The moving scan of a trusted pair gets the frame of the fixed one, so that the next training takes views of both as views of one patient; how far
the registration may be off goes with it as slack. Between patients :mod:`training.between` does the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from UniversalAnatomicalEmbeddingLib.images import FloatArray, Volume, read_volume
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import NoCommonAnatomy, Registration
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system import InputError, write_atomically

from ..scans.scan import read_index, scan_name

Row = dict[str, str]
PATHS = ("path", "labels", "tissue")


@dataclass(frozen=True)
class Trust:
    """When a registration is trusted: at least ``inliers`` agreeing keypoints, and there and back again at most ``most_round_trip_mm`` (median)."""

    inliers: int = 60
    most_round_trip_mm: float = 6.0


@dataclass(frozen=True, eq=False)
class Alignment:
    """Fixed to moving LPS mm (4, 4), how many keypoints agree, the median distance there and back, and the expected target registration error."""

    matrix: FloatArray
    inliers: int
    round_trip_mm: float
    expected_tre_mm: float

    @property
    def slack_mm(self) -> float:
        """How far a correspondence may be off."""
        return float(np.hypot(self.round_trip_mm, np.nan_to_num(self.expected_tre_mm)))

    def trusted(self, trust: Trust) -> bool:
        """Whether to train on it."""
        return self.inliers >= trust.inliers and self.round_trip_mm <= trust.most_round_trip_mm


def main() -> None:
    """``python -m training.align --index runs/index.csv --pairs pairs.json --out runs/round1.csv [--model ID] [--stage affine]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True, help="index file as training.prepare writes it (not that of an earlier round)")
    parser.add_argument(
        "--pairs", type=Path, required=True, help='which scans show one patient: JSON list of {"fixed": scan, "moving": scan}'
    )
    parser.add_argument("--out", type=Path, required=True, help="index file of the next round to write")
    parser.add_argument("--model", help="catalogue id or weights file of the current model")
    parser.add_argument("--stage", default="affine", choices=("rigid", "similarity", "affine"))
    parser.add_argument("--inliers", type=int, default=Trust.inliers, help="least number of agreeing keypoints")
    parser.add_argument("--most-round-trip-mm", type=float, default=Trust.most_round_trip_mm)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    rows, pairs = read_index(args.index), read_patients(args.pairs)
    session = Session(args.model, args.device)

    def align(fixed: Row, moving: Row) -> Alignment:
        volumes = (read_volume(fixed["path"], fixed["modality"]), read_volume(moving["path"], moving["modality"]))
        return align_pair(session, *volumes, RegisterOptions(stage=args.stage))

    aligned = align_index(rows, pairs, align, Trust(args.inliers, args.most_round_trip_mm))
    write_index(args.out, aligned)
    print(f"{len({r['frame'] for r in rows})} frames before, {len({r['frame'] for r in aligned})} now -> {args.out}")


def read_patients(path: Path) -> list[tuple[str, str]]:
    """Names of the fixed and moving scan of every pair in a JSON list of objects with paths or names under "fixed" and "moving"."""
    try:
        return [(scan_name(pair["fixed"]), scan_name(pair["moving"])) for pair in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f'{path} is not a JSON list of {{"fixed": scan, "moving": scan}} ({error!r}).') from error


def align_index(rows: list[Row], pairs: list[tuple[str, str]], align: Callable[[Row, Row], Alignment], trust: Trust) -> list[Row]:
    """The rows with every trusted moving scan, and all scans that share its frame, put into the frame of its fixed scan."""
    by_name = {scan_name(r["path"]): dict(r) for r in rows}
    missing = sorted({n for pair in pairs for n in pair} - by_name.keys())
    if missing:
        raise InputError(
            f"The index lacks {len(missing)} scans of the pairs (first: {', '.join(missing[:3])}). Use the index of these scans."
        )
    for fixed, moving in ((by_name[f], by_name[m]) for f, m in pairs):
        if fixed["frame"] == moving["frame"] or moving.get("frame_to_scan"):
            continue
        where = f"{scan_name(fixed['path'])} <- {scan_name(moving['path'])}"
        try:
            found = align(fixed, moving)
        except NoCommonAnatomy:
            print(f"{where}: no common anatomy found, left apart", flush=True)
            continue
        kept = found.trusted(trust)
        facts = (
            f"{found.inliers} keypoints agree, there and back {found.round_trip_mm:.1f} mm, expected error {found.expected_tre_mm:.1f} mm"
        )
        print(f"{where}: {facts}, {'kept' if kept else 'left apart'}", flush=True)
        if kept:
            _move(by_name.values(), fixed, moving["frame"], found)
    return list(by_name.values())


def _move(rows, fixed: Row, frame: str, found: Alignment) -> None:
    """Put all scans of ``frame`` into the frame of ``fixed``."""
    own = (
        np.vstack([np.reshape([float(v) for v in fixed["frame_to_scan"].split()], (3, 4)), [0, 0, 0, 1]])
        if fixed.get("frame_to_scan")
        else np.eye(4)
    )
    matrix = (found.matrix @ own)[:3].ravel()
    slack = float(np.hypot(found.slack_mm, float(fixed.get("slack_mm") or 0)))
    for row in rows:
        if row["frame"] == frame:
            row |= {"frame": fixed["frame"], "frame_to_scan": " ".join(f"{v:.9g}" for v in matrix), "slack_mm": f"{slack:.2f}"}


def align_pair(session: Session, fixed: Volume, moving: Volume, options: RegisterOptions) -> Alignment:
    """Register two scans independently in both directions. Raises :class:`NoCommonAnatomy`."""
    there, back = session.register(fixed, moving, options), session.register(moving, fixed, options)
    return combine(there, back)


def combine(there: Registration, back: Registration) -> Alignment:
    """What two registrations, fixed to moving and moving to fixed, say together."""
    points = there.fixed_lps[there.inlier]
    round_trip = np.linalg.norm(back.transform(there.transform(points)) - points, axis=1)
    inliers = min(int(there.inlier.sum()), int(back.inlier.sum()))
    return Alignment(there.transform.matrix, inliers, float(np.median(round_trip)), max(there.expected_tre_mm, back.expected_tre_mm))


def write_index(path: Path, rows: list[Row]) -> None:
    """Write an index file; paths become relative to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(k for row in rows for k in row))
    with write_atomically(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, **{k: os.path.relpath(row[k], path.parent.resolve()) for k in PATHS if row.get(k)}})

"""Prove that a rebuilding step changes nothing, to the bit.

Before the step ``python Testing/benchmarks/equal.py run --out before.json``, after it ``... run
--out after.json``, then ``... compare before.json after.json``: prints what differs (50 lines at
most), and exits 1 if anything does. It works on one thread, for sums depend on how they are shared
out; compare runs of one machine and of the same versions of its packages only. Of the package it
knows the session, the readers and the options, so that it outlives a move of everything else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from UniversalAnatomicalEmbeddingLib import Session, Volume

Value = str | list[str] | None
Values = dict[str, Value]
Position = tuple[float, float, float]

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PACKAGES = ("numpy", "scipy", "SimpleITK", "torch")
CHESTS = ("ct/lidc_0001_chest", "ct/cptac_c3n00247_chest")
HEADS = ("mr/tpl_mni2009c", "mr/tpl_colin27_ch2")
CT_AND_MR = ("ct/sts035_ct", "mr/sts035_mrT1")
LANDMARK_PAIRS = {"pairs_ct_chest.json": CHESTS, "pairs_mr_brain.json": HEADS}
KEYPOINTS = 1000
MOST_LINES = 50
FOUND = ("point_lps", "similarity", "coarse", "margin", "cycle_mm", "spread_mm", "beyond_mm")
JUDGED = ("confidence", "status", "note")
EMBEDDED = ("fine", "coarse", "body")
REGISTERED = ("fixed_lps", "moving_lps", "residual_mm", "inlier")
FIGURES = ("expected_tre_mm", "folding", "refined_mm", "note")


def exact(value: Any) -> Value:
    """Numbers as hexadecimal floats (a few), or the hash of all of them; text as it is."""
    import numpy as np

    if value is None or isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        return float(array).hex()
    if array.size <= 16 and array.dtype == np.float64:
        return [number.hex() for number in array.ravel().tolist()]
    described = f"{array.dtype.str}{array.shape}".encode()
    return "sha256:" + hashlib.sha256(described + array.tobytes()).hexdigest()


def values_of(name: str, thing: Any, fields: Iterable[str]) -> Values:
    """The fields of a result under its name."""
    return {f"{name} {field}": exact(getattr(thing, field)) for field in fields}


class Scans:
    """The scans of the measuring set and their embeddings, each made once."""

    def __init__(self, session: Session, folder: Path) -> None:
        from UniversalAnatomicalEmbeddingLib import read_volume

        names = (*CHESTS, *HEADS, *CT_AND_MR)
        self.session = session
        self.volumes = {name: read_volume(folder / f"{name}.nii.gz") for name in names}
        self.embedded = {name: session.embed(volume) for name, volume in self.volumes.items()}

    def maps(self) -> Values:
        """Hashes of the descriptors, and where they lie."""
        values: Values = {}
        for name, searchable in self.embedded.items():
            embedding = searchable.embedding
            values |= values_of(f"embed {name}", embedding, EMBEDDED)
            values |= values_of(f"embed {name} grid", embedding.grid, ("shape_zyx", "affine"))
        return values

    def matches(self, template: str, target: str, landmarks: Mapping[str, Position]) -> Values:
        """Landmarks, LPS mm, of one scan in another, by the search near the anchors and by the
        exhaustive one, and the similarity map of the first."""
        from UniversalAnatomicalEmbeddingLib import MatchOptions

        source, goal, way = (
            self.embedded[template],
            self.embedded[target],
            f"{template} in {target}",
        )
        points, values = list(landmarks.values()), Values()
        for kind, options in {"near": MatchOptions(), "exact": MatchOptions(exact=True)}.items():
            found = self.session.match(source, points, goal, options)
            for label, match in zip(landmarks, found, strict=True):
                values |= values_of(f"match {way} {kind} {label}", match, FOUND + JUDGED)
        similarity, _ = self.session.similarity(source, points[0], goal)
        return values | {f"similarity {way}": exact(similarity)}

    def registration(self, fixed: str, moving: str, stage: str, refine: bool) -> Values:
        """The map of two scans, what it rests on and its figures."""
        from UniversalAnatomicalEmbeddingLib.options import RegisterOptions

        options = RegisterOptions(stage=stage, refine=refine, keypoints=KEYPOINTS)
        result = self.session.register(self.volumes[fixed], self.volumes[moving], options)
        name = f"register {moving} to {fixed} {stage}"
        values = values_of(name, result, REGISTERED + FIGURES)
        return values | values_of(name, result.transform, ("matrix",))


def measured(data: Path) -> Values:
    """Everything that has to stay as it is."""
    from UniversalAnatomicalEmbeddingLib import Session, read_points

    scans = Scans(Session(device="cpu"), data / "dev")
    values = scans.maps()
    for template, target in both_ways(data / "dev"):
        listed = read_points(data / "dev" / f"{template}.mrk.json")
        placed = {p.label: p.position_lps for p in listed if p.position_lps is not None}
        values |= scans.matches(template, target, placed)
    for template, target in (CT_AND_MR, CT_AND_MR[::-1]):  # these have no landmarks
        x, y, z = middle(scans.volumes[CT_AND_MR[1]])
        shown = {"middle": (x, y, z), "above": (x + 5, y - 5, z + 20)}
        values |= scans.matches(template, target, shown)
    values |= scans.registration(*CT_AND_MR, "rigid", refine=True)
    return values | scans.registration(*CHESTS, "affine", refine=False)


def middle(volume: Volume) -> list[float]:
    """The middle of a scan's field of view, LPS mm."""
    affine, size_xyz = volume.grid.affine, volume.array.shape[::-1]
    index = [(n - 1) / 2 for n in size_xyz]
    return [float(row[:3] @ index + row[3]) for row in affine[:3]]


def both_ways(folder: Path) -> list[tuple[str, str]]:
    """(template, target) of the pairs with landmarks, as their files list them, and the other way
    round. ValueError for a pair that its file does not list any more."""
    ways = []
    for file, (a, b) in LANDMARK_PAIRS.items():
        pairs = json.loads((folder / file).read_text(encoding="utf-8"))
        listed = {(pair["template"], pair["target"]) for pair in pairs}
        for way in ((a, b), (b, a)):
            if tuple(f"{name}.nii.gz" for name in way) not in listed:
                raise ValueError(f"{folder / file} does not list {way[0]} in {way[1]}.")
            ways.append(way)
    return ways


def run(out: Path, data: Path) -> None:
    """Measure, on one thread, and write the file."""
    os.environ |= dict.fromkeys(LIBRARIES, "1")  # read when the libraries are loaded
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    stored = {"packages": {name: version(name) for name in PACKAGES}, "values": measured(data)}
    out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(f"{len(stored['values'])} values in {out}")


def differences(before: Values, after: Values) -> list[str]:
    """One line for each value that is not the same, in the order of ``before``, then the new."""
    lines = [
        f"{name}: {_difference(value, after[name])}" if name in after else f"{name}: is gone"
        for name, value in before.items()
        if name not in after or after[name] != value
    ]
    return lines + [f"{name}: is new" for name in after if name not in before]


def _difference(before: Value, after: Value) -> str:
    numbers = _numbers(before), _numbers(after)
    if numbers[0] and len(numbers[0]) == len(numbers[1]):
        largest = max(abs(a - b) for a, b in zip(*numbers, strict=True))
        return f"off by up to {largest:.3g} ({numbers[0]} before, {numbers[1]} after)"
    return f"{before} before, {after} after"


def _numbers(value: Value) -> list[float]:
    """The numbers that were written as hexadecimal floats; none for text and hashes."""
    texts = value if isinstance(value, list) else [value or ""]
    try:
        return [float.fromhex(text) for text in texts]
    except ValueError:
        return []


def compare(before: Path, after: Path) -> int:
    """Print what differs between two files of :func:`run`; 1 if anything does, else 0."""
    a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    if a["packages"] != b["packages"]:
        print(f"Other packages: {a['packages']} before, {b['packages']} after.")
    lines = differences(a["values"], b["values"])
    left = [f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    print("\n".join([*lines[:MOST_LINES], *left, f"{len(lines)} of {len(a['values'])} values differ."]))
    return int(bool(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    runs = jobs.add_parser("run", help="measure and write")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--data", type=Path, default=DATA, help="folder of the real scans")
    compares = jobs.add_parser("compare", help="print what differs")
    compares.add_argument("before", type=Path)
    compares.add_argument("after", type=Path)
    args = parser.parse_args(arguments)
    if args.job == "compare":
        return compare(args.before, args.after)
    run(args.out, args.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

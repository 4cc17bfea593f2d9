"""Measure how matching holds up where a scan shows only a part of the body, or is disturbed.

``python Testing/benchmarks/fields_of_view.py run --data FOLDER --out CASES.jsonl`` runs every
way of ``shown_parts.py`` on the dev scans of FOLDER; each case is appended at once, and what the
file already holds is skipped. ``--ways "a;b"`` and ``--scans N`` (of each body region) choose;
``--quick`` is one scan a region and one template. ``table --out CASES.jsonl`` prints Markdown.

Kinds of case. ``warp``: the scan as the way shows it against itself under a known smooth warp with
new noise, shown the same way; random points of all anatomy that both show, and the same points
with both uncut. ``landmarks``: other patients' landmarks found in the scan; those it shows
are present, those more than 10 mm outside are cut away. ``visit``: as ``landmarks``, from the same
patient's other visit. ``headneck``: centroids of structures between neighbouring head-neck scans.

A point called absent counts as missed. The goals hold where the longest side of the box around the
anatomy shown is at least 100 mm: the warp's share within 10 mm at most 3 points below the uncut
scan's, the landmarks' at most 8, at most 2 % of the present called absent, at least 90 % of what is
cut away. Intervals: 95 %, bootstrap over the patients that the landmarks are looked for in.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parent))

import shown_parts as ways
import shown_scan as parts
from fields_of_view_table import Queries, table

from training.measure.known_warp import Warp
from UniversalAnatomicalEmbeddingLib import Session, read_volume
from UniversalAnatomicalEmbeddingLib.images import FloatArray, Grid, Modality, Volume
from UniversalAnatomicalEmbeddingLib.landmarks import read_points
from UniversalAnatomicalEmbeddingLib.matching import Searchable

MARGIN_MM = 4.0  # a present point lies this deep in the field of view
CUT_MM = 10.0  # what is cut away lies this far outside
POINTS = 320  # of a way, over all its scans
WARPED = 2  # scans of each region that are matched with themselves; the landmarks' are all
NOISE = 0.02
TABLE_MM = 5.0
QUICK_HEADNECK = 4


@dataclass(frozen=True)
class Source:
    """A dev scan: its file below the data folder, whose it is, and the body region it shows."""

    file: str
    patient: str
    region: str

    @property
    def modality(self) -> Modality:
        """What made it."""
        return "mr" if self.file.startswith("dev/mr/") else "ct"


WAYS = {
    "chest": ways.CHEST,
    "abdomen": ways.ABDOMEN,
    "limb": ways.LIMB,
    "head": ways.MR,
    "pelvis": ways.MR_PELVIS,
}
SOURCES = (
    Source("dev/ct/lidc_0001_chest", "lidc_0001", "chest"),
    Source("dev/ct/ricord1a_001012_chest", "ricord1a_001012", "chest"),
    Source("dev/ct/cptac_c3n00247_chest", "cptac_c3n00247", "chest"),
    Source("dev/ct/ricord1a_000082_chest", "ricord1a_000082", "chest"),
    Source("dev/ct/acrinflt001_t1b_ct", "acrinflt001", "chest"),
    Source("dev/ct/acrinflt001_t2_ct", "acrinflt001", "abdomen"),
    Source("dev/ct/chaos_ct_abdomen", "chaos", "abdomen"),
    Source("dev/ct/sts036_ct", "sts036", "limb"),
    Source("dev/ct/sts034_ct", "sts034", "limb"),
    Source("dev/ct/sts039_ct", "sts039", "limb"),
    Source("dev/mr/tpl_mni2009c", "mni2009c", "head"),
    Source("dev/mr/tpl_colin27_ch2", "colin27", "head"),
    Source("dev/mr/ms01_s1_T1w", "ms01", "head"),
    Source("dev/mr/prostx0218_T2tra", "prostx0218", "pelvis"),
    Source("dev/mr/prostx0218_vibeT1", "prostx0218", "pelvis"),
)
OTHER_VISITS = (Source("dev/ct/acrinflt001_t1_upperchest", "acrinflt001", "chest"),)


class Bench:
    """The scans of a data folder and their embeddings; those of uncut scans are kept."""

    def __init__(self, session: Session, data: Path) -> None:
        self.session, self.data = session, data
        self.kept: dict[tuple[Source, bool], tuple[parts.Scan, Searchable]] = {}

    def uncut(self, source: Source, moved: bool = False) -> tuple[parts.Scan, Searchable]:
        """A scan as it is, or under its known warp, and its embedding."""
        if (source, moved) not in self.kept:
            if moved:
                scan = warped(self.uncut(source)[0], warp_of(self.uncut(source)[0]))
            else:
                volume = read_volume(self.data / f"{source.file}.nii.gz")
                scan = parts.scan_of(volume, source.modality)
            self.kept[source, moved] = scan, self.session.embed(scan.volume)
        return self.kept[source, moved]

    def forget(self, source: Source) -> None:
        """Drop the warped scan, which no other case needs."""
        self.kept.pop((source, True), None)

    def answers(self, template: Searchable, points: FloatArray, target: Searchable, truth: FloatArray) -> list[tuple[float, bool]]:
        """Error in mm and whether called absent, of each point."""
        matches = self.session.match(template, points, target)
        errors = np.linalg.norm(np.array([m.point_lps for m in matches]) - truth, axis=1)
        return [(float(e), m.status == "absent") for e, m in zip(errors, matches, strict=True)]

    def landmarks(self, source: Source) -> dict[str, FloatArray]:
        """The landmarks of a scan; none where it has no file of them."""
        file = self.data / f"{source.file}.mrk.json"
        points = read_points(file) if file.exists() else ()
        return {p.label: np.array(p.position_lps) for p in points if p.position_lps is not None}

    def warp_case(self, source: Source, name: str, count: int) -> dict[str, Any]:
        """The scan as the way shows it against itself under the known warp."""
        (scan, embedded), (moved, embedded_moved) = self.uncut(source), self.uncut(source, True)
        template, target = shown_both(scan, moved, name, WAYS[source.region][name])
        points = present_points(template, target, warp_of(scan), count, seed_of(name, scan))
        truth = warp_of(scan)(points)
        extent = {"shown_mm": template.extent_mm.tolist()}
        if not len(points):
            return {**extent, **row_of([], [], [])}
        whole = found = self.answers(embedded, points, embedded_moved, truth)
        if WAYS[source.region][name] is not ways.uncut:
            cut = [self.session.embed(s.volume) for s in (template, target)]
            found = self.answers(cut[0], points, cut[1], truth)
        return {**extent, **row_of(found, whole, [True] * len(points))}

    def landmark_cases(self, source: Source, name: str, templates: Sequence[Source]) -> Iterator[dict[str, Any]]:
        """The landmarks of each template in the scan as the way shows it."""
        templates = [t for t in templates if t.region == source.region and t.file != source.file]
        here = self.landmarks(source)
        if not here or not templates:
            return
        scan, whole = self.uncut(source)
        shown = WAYS[source.region][name](scan, np.random.default_rng(seed_of(name, scan)))
        same = WAYS[source.region][name] is ways.uncut
        embedded = None
        for template in templates:
            there = self.landmarks(template)
            labels = [label for label in there if label in here]
            points, truth = (np.array([side[k] for k in labels]).reshape(-1, 3) for side in (there, here))
            present, cut = parts.presence(shown, truth, MARGIN_MM, CUT_MM)
            asked = present | cut
            points, truth, seen = points[asked], truth[asked], present[asked]
            if not len(points):
                continue
            embedded = embedded or (whole if same else self.session.embed(shown.volume))
            start = self.uncut(template)[1]
            plain = self.answers(start, points, whole, truth)
            found = plain if same else self.answers(start, points, embedded, truth)
            kind = "visit" if template.patient == source.patient else "landmarks"
            yield {"kind": kind, "template": template.file, **row_of(found, plain, seen.tolist())}

    def headneck_case(self, first: Path, second: Path) -> dict[str, Any]:
        """Centroids of the structures that both scans show whole."""
        here, there = (structures(file) for file in (first, second))
        labels = [label for label in here if label in there]
        if not labels:
            return row_of([], [], [])
        points, truth = (np.array([side[k] for k in labels]) for side in (here, there))
        scans = [self.session.embed(read_volume(file)) for file in (first, second)]
        found = self.answers(scans[0], points, scans[1], truth)
        return row_of(found, found, [True] * len(labels))


def row_of(found: Sequence[tuple[float, bool]], whole: Sequence[tuple[float, bool]], present: list[bool]) -> dict[str, Any]:
    """What a case measured, as written to the file."""
    return {
        "mm": [round(mm, 2) for mm, _ in found],
        "absent": [absent for _, absent in found],
        "uncut_mm": [round(mm, 2) for mm, _ in whole],
        "uncut_absent": [absent for _, absent in whole],
        "present": present,
    }


def seed_of(name: str, scan: parts.Scan) -> int:
    """One seed for a way of a scan, whatever runs before it."""
    return zlib.crc32(f"{name}/{scan.volume.name}".encode())


def warp_of(scan: parts.Scan) -> Warp:
    """The known warp of a scan."""
    return Warp(scan.volume.grid, np.random.default_rng(seed_of("warp", scan)))


def warped(scan: parts.Scan, warp: Warp) -> parts.Scan:
    """All of the scan under the warp, in new voxels and with new noise."""
    corners = warp(scan.volume.grid.corners())
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.diag([parts.SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = low
    grid = Grid(tuple(np.ceil((high - low) / parts.SPACING_MM).astype(int)[::-1]), affine)
    top = 1000.0 if scan.volume.modality == "ct" else float(np.percentile(scan.volume.array, 99))
    noise = np.random.default_rng(seed_of("noise", scan)).normal(0, NOISE * top, grid.shape_zyx)
    moved = parts.resampled(scan, grid, tabled(warp, grid), noise)
    if scan.volume.modality == "ct":
        return moved
    magnitude = np.maximum(moved.volume.array, scan.volume.array.min())
    return replace(moved, volume=replace(moved.volume, array=magnitude))


def tabled(warp: Warp, grid: Grid) -> parts.Mapping:
    """The inverse of the warp on a grid by a table of 5 mm, exact to about 0.1 mm and faster."""
    coarse = grid.axis_aligned(TABLE_MM)
    coarse = coarse.cropped((-1, -1, -1), np.array(coarse.shape_zyx) + 2)
    nodes = coarse.index_to_world(np.indices(coarse.shape_zyx).reshape(3, -1).T)
    shift = (warp.inverse(nodes) - nodes).reshape(*coarse.shape_zyx, 3)

    def back(points: FloatArray) -> FloatArray:
        index = coarse.world_to_index(points).T
        moved = [ndimage.map_coordinates(shift[..., k], index, order=1) for k in range(3)]
        return points + np.stack(moved, axis=1)

    return back


def shown_both(scan: parts.Scan, moved: parts.Scan, name: str, way: ways.Way) -> tuple[parts.Scan, parts.Scan]:
    """Both scans as the way shows them."""
    rng = np.random.default_rng(seed_of(name, scan))
    return way(scan, rng), way(moved, rng)


def present_points(template: parts.Scan, target: parts.Scan, warp: Warp, count: int, seed: int) -> FloatArray:
    """Up to ``count`` random points (N, 3) LPS mm of the anatomy that both scans show."""
    rng, grid = np.random.default_rng(seed), template.volume.grid
    cells = np.argwhere(template.shown)
    cells = cells[rng.permutation(len(cells))[: 60 * count]]
    points = grid.index_to_world(cells + rng.uniform(-0.5, 0.5, cells.shape))
    truth = warp(points)
    shown = parts.presence(template, points, MARGIN_MM, CUT_MM)[0]
    shown &= parts.presence(target, truth, MARGIN_MM, CUT_MM)[0]
    return points[shown][:count]


def structures(file: Path) -> dict[str, FloatArray]:
    """Centroids (3,) LPS mm of the structures of a scan whose masks touch none of its borders."""
    stem = str(file).removesuffix(".nii.gz")
    names = json.loads(Path(f"{stem}.seg.json").read_text())
    labels: Volume = read_volume(f"{stem}.seg.nii.gz")
    found = {}
    for number, name in names.items():
        mask = labels.array == int(number)
        inner = mask[1:-1, 1:-1, 1:-1]
        if mask.any() and inner.sum() == mask.sum():
            found[name] = labels.grid.index_to_world(ndimage.center_of_mass(mask))[0]
    return found


def run(args: argparse.Namespace) -> None:
    """Run what the file lacks."""
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(r["kind"], r["way"], r["scan"]) for r in rows}
    bench = Bench(Session(device=args.device), args.data)
    chosen = first_of_each(SOURCES, 1 if args.quick else args.scans)
    templates = first_of_each(SOURCES, 2) if args.quick else [*SOURCES, *OTHER_VISITS]
    wanted = set(args.ways.split(";")) if args.ways else None
    for source in chosen:
        peers = first_of_each([s for s in chosen if s.region == source.region], WARPED)
        for name in WAYS[source.region]:
            if wanted is not None and name not in wanted:
                continue
            head = {"way": name, "scan": source.file, "patient": source.patient}
            if source in peers and ("warp", name, source.file) not in done:
                case = bench.warp_case(source, name, -(-POINTS // len(peers)))
                write(args.out, {"kind": "warp", **head, **case})
            if not {("landmarks", name, source.file), ("visit", name, source.file)} & done:
                for case in list(bench.landmark_cases(source, name, templates)):
                    write(args.out, {**head, **case})
        bench.forget(source)
    if wanted is None or "headneck" in wanted:
        run_headneck(bench, args, done)


def run_headneck(bench: Bench, args: argparse.Namespace, done: set[tuple[str, str, str]]) -> None:
    """Neighbouring pairs of the head-neck scans."""
    files = sorted((args.data / "dev/okbp").glob("*_headneck.nii.gz"))
    pairs = list(itertools.pairwise(files))
    for first, second in pairs[: QUICK_HEADNECK if args.quick else None]:
        name = f"{first.name.split('.')[0]}>{second.name.split('.')[0]}"
        if ("headneck", "headneck", name) not in done:
            head = {"kind": "headneck", "way": "headneck", "scan": name, "patient": second.name}
            write(args.out, {**head, **bench.headneck_case(first, second)})


def first_of_each(sources: Sequence[Source], count: int | None) -> list[Source]:
    """The first ``count`` sources of each region."""
    chosen = []
    for region in dict.fromkeys(s.region for s in sources):
        chosen += [s for s in sources if s.region == region][:count]
    return chosen


def write(out: Path, row: dict[str, Any]) -> None:
    """Append one case."""
    with out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    queries = Queries.read([row])
    share, whole = queries.within(), queries.within_uncut()
    print(row["kind"], row["way"], row["scan"], len(row["mm"]), share, whole, flush=True)


def main() -> None:
    """Run the ways, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True, help="cases, a JSON object a line")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--ways", help="only these, separated by ';' (headneck is one of them)")
    parser.add_argument("--scans", type=int, help="at most so many scans of each region")
    parser.add_argument("--quick", action="store_true", help="one scan a region, one template")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    order = [name for group in WAYS.values() for name in group] + ["headneck"]
    if args.ways and (unknown := set(args.ways.split(";")) - set(order)):
        parser.error(f"no way is called {', '.join(sorted(unknown))}; there are {'; '.join(order)}")
    if args.job == "run":
        run(args)
    print(table([json.loads(line) for line in args.out.read_text().splitlines()], order))


if __name__ == "__main__":
    main()

"""Measure how matching holds up where a scan shows only a part of the body, or is disturbed.

``python Testing/benchmarks/fields_of_view.py run --data FOLDER --out CASES.jsonl`` runs every way of
``shown_parts.py`` on the dev scans of FOLDER, case by case; each is appended at once, and what the
file already holds is skipped. ``--ways "a;b"`` and ``--scans N`` (of each body region) choose;
``--quick`` is one scan a region and two templates. ``table --out CASES.jsonl`` prints Markdown.

Kinds of case. ``warp``: the scan as the way shows it against itself under a known smooth warp with
new noise, shown the same way; random points of all anatomy that both show, and the same points with
both uncut. ``landmarks``: other patients' landmarks found in the scan; those shown are present, those
more than 10 mm outside are cut away. ``visit``: as ``landmarks``, from the same patient's other
visit. ``headneck``: centroids of structures between neighbouring head-neck scans, as they are.

A point called absent counts as missed. The goals hold where the longest side of the box around the
anatomy shown is at least 100 mm: the warp's share within 10 mm at most 3 points below the uncut
scan's, the landmarks' at most 8, at most 2 % of the present called absent, at least 90 % of what is
cut away. Intervals: 95 %, bootstrap over the patients that the landmarks are looked for in.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import shown_parts as parts

from training.known_warp import Warp
from UniversalAnatomicalEmbeddingLib import Session, read_volume
from UniversalAnatomicalEmbeddingLib.geometry import FloatArray, Grid
from UniversalAnatomicalEmbeddingLib.matching import Searchable
from UniversalAnatomicalEmbeddingLib.points import read_points
from UniversalAnatomicalEmbeddingLib.volume import Modality, Volume

WITHIN_MM = 10.0
MARGIN_MM = 4.0  # a present point lies this deep in the field of view
CUT_MM = 10.0  # what is cut away lies this far outside
POINTS = 400  # of a way, over all its scans
NOISE = 0.02
TABLE_MM = 5.0
JUDGED_MM = 100.0
GOALS = {"warp": 3.0, "landmarks": 8.0, "absent": 2.0, "cut": 90.0}
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
    "chest": parts.CHEST,
    "abdomen": parts.ABDOMEN,
    "limb": parts.LIMB,
    "head": parts.MR,
    "pelvis": parts.MR_PELVIS,
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


@dataclass(frozen=True)
class Queries:
    """What was asked in one case: errors in mm and verdicts, and the same in the uncut scan."""

    mm: FloatArray
    absent: parts.Mask
    uncut_mm: FloatArray
    uncut_absent: parts.Mask
    present: parts.Mask

    @classmethod
    def read(cls, rows: Sequence[dict[str, Any]]) -> Queries:
        """The queries of several rows together."""

        def column(name: str, kind: type) -> Any:
            return np.array([v for row in rows for v in row[name]], dtype=kind)

        errors = (column(name, float) for name in ("mm", "uncut_mm"))
        verdicts = (column(name, bool) for name in ("absent", "uncut_absent", "present"))
        (mm, uncut_mm), (absent, uncut_absent, present) = errors, verdicts
        return cls(mm, absent, uncut_mm, uncut_absent, present)

    def within(self) -> float | None:
        """Percentage of the present found within 10 mm."""
        return percent(((self.mm <= WITHIN_MM) & ~self.absent)[self.present])

    def within_uncut(self) -> float | None:
        """The same of the uncut scan."""
        return percent(((self.uncut_mm <= WITHIN_MM) & ~self.uncut_absent)[self.present])


def percent(hits: parts.Mask) -> float | None:
    """100 times the mean; None of nothing."""
    return 100 * float(np.mean(hits)) if len(hits) else None


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

    def answers(
        self, template: Searchable, points: FloatArray, target: Searchable, truth: FloatArray
    ) -> list[tuple[float, bool]]:
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
        if not len(points):
            return row_of([], [], [])
        whole = self.answers(embedded, points, embedded_moved, truth)
        if WAYS[source.region][name] is parts.uncut:
            return row_of(whole, whole, [True] * len(points))
        cut = [self.session.embed(s.volume) for s in (template, target)]
        return row_of(self.answers(cut[0], points, cut[1], truth), whole, [True] * len(points))

    def landmark_cases(
        self, source: Source, name: str, templates: Sequence[Source]
    ) -> Iterator[dict[str, Any]]:
        """The landmarks of each template in the scan as the way shows it."""
        templates = [t for t in templates if t.region == source.region and t.file != source.file]
        here = self.landmarks(source)
        if not here or not templates:
            return
        scan, whole = self.uncut(source)
        shown = WAYS[source.region][name](scan, np.random.default_rng(seed_of(name, scan)))
        same = WAYS[source.region][name] is parts.uncut
        embedded = None
        for template in templates:
            there = self.landmarks(template)
            labels = [label for label in there if label in here]
            points, truth = (
                np.array([side[k] for k in labels]).reshape(-1, 3) for side in (there, here)
            )
            present, cut = parts.presence(shown, truth, MARGIN_MM, CUT_MM)
            points, truth, seen = (v[present | cut] for v in (points, truth, present))
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


def row_of(
    found: Sequence[tuple[float, bool]], whole: Sequence[tuple[float, bool]], present: list[bool]
) -> dict[str, Any]:
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
    return parts.resampled(scan, grid, tabled(warp, grid), noise)


def tabled(warp: Warp, grid: Grid) -> parts.Mapping:
    """The inverse of the warp on a grid by a table of 5 mm, exact to about 0.1 mm and far faster."""
    coarse = grid.axis_aligned(TABLE_MM)
    coarse = coarse.cropped((-1, -1, -1), np.array(coarse.shape_zyx) + 2)
    nodes = coarse.index_to_world(np.indices(coarse.shape_zyx).reshape(3, -1).T)
    shift = (warp.inverse(nodes) - nodes).reshape(*coarse.shape_zyx, 3)

    def back(points: FloatArray) -> FloatArray:
        index = coarse.world_to_index(points).T
        moved = [ndimage.map_coordinates(shift[..., k], index, order=1) for k in range(3)]
        return points + np.stack(moved, axis=1)

    return back


def shown_both(
    scan: parts.Scan, moved: parts.Scan, name: str, way: parts.Way
) -> tuple[parts.Scan, parts.Scan]:
    """Both scans as the way shows them."""
    rng = np.random.default_rng(seed_of(name, scan))
    return way(scan, rng), way(moved, rng)


def present_points(
    template: parts.Scan, target: parts.Scan, warp: Warp, count: int, seed: int
) -> FloatArray:
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
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(r["kind"], r["way"], r["scan"]) for r in rows}
    bench = Bench(Session(device=args.device), args.data)
    chosen = first_of_each(SOURCES, 1 if args.quick else args.scans)
    templates = first_of_each(SOURCES, 3 if args.quick else None) + list(OTHER_VISITS)
    wanted = set(args.ways.split(";")) if args.ways else None
    for source in chosen:
        peers = sum(s.region == source.region for s in chosen)
        for name in WAYS[source.region]:
            if wanted is not None and name not in wanted:
                continue
            head = {"way": name, "scan": source.file, "patient": source.patient}
            if ("warp", name, source.file) not in done:
                case = bench.warp_case(source, name, -(-POINTS // peers))
                scan, _ = bench.uncut(source)
                shown = WAYS[source.region][name](scan, np.random.default_rng(0))
                write(args.out, {"kind": "warp", **head, "shown_mm": shown.extent_mm.tolist(), **case})
            if not {("landmarks", name, source.file), ("visit", name, source.file)} & done:
                for case in list(bench.landmark_cases(source, name, templates)):
                    write(args.out, {**head, **case})
        bench.forget(source)
    if wanted is None or "headneck" in wanted:
        run_headneck(bench, args, done)


def run_headneck(bench: Bench, args: argparse.Namespace, done: set[tuple[str, str, str]]) -> None:
    """Neighbouring pairs of the head-neck scans."""
    files = sorted((args.data / "dev/okbp").glob("*_headneck.nii.gz"))
    pairs = list(zip(files, files[1:], strict=False))
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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a way, as Markdown."""
    head = (
        "way | shown mm (z, y, x) | warp: n, within 10 mm (uncut), median, absent "
        "| landmarks: n, within 10 mm (uncut) [interval of the loss], absent | cut away: n, absent "
        "| other visit: n, within 10 mm (uncut) | goals"
    )
    names = list(dict.fromkeys(r["way"] for r in rows))
    order = [n for ways in WAYS.values() for n in ways] + ["headneck"]
    names.sort(key=order.index)
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    return "\n".join(lines + [line_of(n, [r for r in rows if r["way"] == n]) for n in names])


def line_of(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """The line of a way."""
    kinds = {kind: [r for r in rows if r["kind"] == kind] for kind in ("warp", "headneck", "landmarks", "visit")}
    warp, marks = (Queries.read(kinds[k]) for k in ("warp", "landmarks"))
    plain = Queries.read(kinds["headneck"])
    known = warp if len(warp.mm) else plain
    extent = np.median([r["shown_mm"] for r in kinds["warp"]] or [[np.nan] * 3], axis=0)
    low, high = interval(kinds["landmarks"])
    away, visit = ~marks.present, Queries.read(kinds["visit"])
    cells = [
        name,
        " x ".join(f"{v:.0f}" for v in extent),
        f"{len(known.mm)}, {compared(known)}, {np.median(known.mm) if len(known.mm) else np.nan:.1f} mm, "
        f"{number(percent(known.absent))}",
        f"{marks.present.sum()}, {compared(marks)} [{low:.0f}, {high:.0f}], "
        f"{number(percent(marks.absent[marks.present]))}",
        f"{away.sum()}, {number(percent(marks.absent[away]))}",
        f"{visit.present.sum()}, {compared(visit)}",
        verdict(extent, warp, marks),
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None) -> str:
    """A percentage, or a dash."""
    return "-" if value is None else f"{value:.1f} %"


def compared(queries: Queries) -> str:
    """The share found, with the uncut scan's in brackets."""
    return f"{number(queries.within())} ({number(queries.within_uncut())})"


def verdict(extent: FloatArray, warp: Queries, marks: Queries) -> str:
    """The goals that are missed; "met" where none is."""
    if not np.nanmax(extent, initial=0) >= JUDGED_MM:
        return "not judged"
    missed = []
    for name, queries in (("warp", warp), ("landmarks", marks)):
        share, whole = queries.within(), queries.within_uncut()
        if share is not None and whole is not None and whole - share > GOALS[name]:
            missed.append(f"{name} -{whole - share:.1f}")
        absent = percent(queries.absent[queries.present])
        if absent is not None and absent > GOALS["absent"]:
            missed.append(f"{name} absent {absent:.1f} %")
    cut = percent(marks.absent[~marks.present])
    if cut is not None and cut < GOALS["cut"]:
        missed.append(f"cut away {cut:.0f} %")
    return "missed: " + ", ".join(missed) if missed else "met"


def interval(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """95 % interval of the points lost in share within 10 mm, resampling the target patients."""
    counts = {}
    for patient in dict.fromkeys(r["patient"] for r in rows):
        q = Queries.read([r for r in rows if r["patient"] == patient])
        hit, whole = (
            ((mm <= WITHIN_MM) & ~absent)[q.present].sum()
            for mm, absent in ((q.mm, q.absent), (q.uncut_mm, q.uncut_absent))
        )
        counts[patient] = (whole - hit, q.present.sum())
    if not sum(n for _, n in counts.values()):
        return np.nan, np.nan
    drawn = np.random.default_rng(0).integers(len(counts), size=(2000, len(counts)))
    lost, asked = np.array(list(counts.values()))[drawn].sum(axis=1).T
    low, high = np.percentile(100 * lost[asked > 0] / asked[asked > 0], [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Run the ways, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True, help="file of cases, one JSON object a line")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--ways", help="only these, separated by ';' (headneck is one of them)")
    parser.add_argument("--scans", type=int, help="at most so many scans of each region")
    parser.add_argument("--quick", action="store_true", help="one scan a region, two templates")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    known = {name for ways in WAYS.values() for name in ways} | {"headneck"}
    if args.ways and (unknown := set(args.ways.split(";")) - known):
        parser.error(f"no way is called {', '.join(sorted(unknown))}; there are {'; '.join(known)}")
    if args.job == "run":
        run(args)
    print(table([json.loads(line) for line in args.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()

"""Measure registration against known truth, peers in the same run: SimpleITK and elastix (mutual information), ConvexAdam.

``python Testing/benchmarks/registration.py run --data FOLDER --out RESULTS.jsonl`` runs the groups of ``registration.json`` (or ``--suite FILE``; some
of them with ``--groups NAME ...``) case by case; each result is appended at once, and what the file already holds is skipped, so a run can be stopped
and taken up again. ``python Testing/benchmarks/registration.py table --out RESULTS.jsonl`` prints the table.

A group names its kind of case, its pairs of scans (``NAME.nii.gz`` under the data folder; landmarks in ``NAME.mrk.json``), how many seeded cases are
made of each, the methods, and optionally the fixed scans of the pairs whose truth is known best.
``moderate``: pairs in one frame (truth: identity), the moving scan turned by up to 20 degrees and shifted by up to 30 mm, up to a quarter of its
slices lost. ``hard``: up to 40 degrees and 100 mm, the moving scan cut to half its length, the fixed one extended by as much air as it is long.
``landmarks``: scans with landmarks of the same names. Motion is put into the image header, so nothing is interpolated.
TRE: 200 seeded body points that both scans show, or the shared landmarks. Peers need ``pip install itk-elastix convexadam``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib import Session
from UniversalAnatomicalEmbeddingLib.images import (
    Grid,
    Volume,
    anatomy_voxels,
    identify,
    modality_of,
    read_volume,
    to_canonical,
    to_sitk,
)
from UniversalAnatomicalEmbeddingLib.landmarks import read_points
from UniversalAnatomicalEmbeddingLib.matching import Searchable
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import NoCommonAnatomy, Scan, register_scans

SUITE = Path(__file__).with_suffix(".json")
LARGEST = {"moderate": (20.0, 30.0), "hard": (40.0, 100.0)}
POINTS = 200
FAILURE_MM = 10.0
OURS = {
    "ours rigid": RegisterOptions(stage="rigid"),
    "ours rigid refined": RegisterOptions(stage="rigid", refine=True),
    "ours affine": RegisterOptions(stage="affine"),
    "ours affine refined": RegisterOptions(stage="affine", refine=True),
    "ours deformable": RegisterOptions(stage="deformable"),
    "ours deformable consistent": RegisterOptions(stage="deformable", inverse_consistent=True),
}
Mapping = Callable[[np.ndarray], np.ndarray]


class Case:
    """Two scans, points (N, 3) LPS mm of the fixed one and their true places in the moving one."""

    def __init__(self, name: str, fixed: Volume, moving: Volume, points: np.ndarray, truth: np.ndarray) -> None:
        self.name, self.fixed, self.moving, self.points, self.truth = name, fixed, moving, points, truth


class Embedder:
    """Embeds every volume of a case once; ``spared`` is the (wall, CPU) time in seconds that did not have to be spent again."""

    def __init__(self, session: Session) -> None:
        self.session, self.known, self.spared = session, {}, np.zeros(2)

    def __call__(self, volume: Volume) -> Searchable:
        """The volume embedded."""
        key = (volume.name, volume.grid.shape_zyx, volume.grid.affine.tobytes())
        if key in self.known:
            self.spared += self.known[key][1]
        else:
            start = clock()
            self.known[key] = self.session.embed(volume), clock() - start
        return self.known[key][0]


def clock() -> np.ndarray:
    """Wall and CPU time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def identity_case(kind: str, fixed: Volume, moving: Volume, seed: int) -> Case:
    """A pair in one frame, moved and cut by seeded random amounts."""
    rng = np.random.default_rng([seed, list(LARGEST).index(kind)])
    degrees, shift = LARGEST[kind]
    axis, along = rng.normal(size=3), rng.normal(size=3)
    centre = moving.grid.corners().mean(axis=0)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(rng.uniform(0, degrees) * axis / np.linalg.norm(axis), degrees=True).as_matrix()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + rng.uniform(0, shift) * along / np.linalg.norm(along)
    slices = moving.grid.shape_zyx[0]
    kept = round(slices * (0.5 if kind == "hard" else rng.uniform(0.75, 1.0)))
    first = int(rng.integers(0, slices - kept + 1))
    moving = Volume(
        moving.array[first : first + kept],
        moving.grid.cropped((first, 0, 0), (kept, *moving.grid.shape_zyx[1:])),
        moving.modality,
        moving.name,
    )
    points = shared_points(fixed, moving, rng)
    if kind == "hard":
        fixed = extended(fixed, bool(rng.integers(2)))
    moved = replace(moving, grid=Grid(moving.grid.shape_zyx, motion @ moving.grid.affine))
    return Case(f"{fixed.name}>{moving.name}#{seed}", fixed, moved, points, points @ motion[:3, :3].T + motion[:3, 3])


def extended(volume: Volume, upwards: bool) -> Volume:
    """The scan with as much air again above or below it."""
    z = volume.grid.shape_zyx[0]
    air = -1024 if volume.modality == "ct" else volume.array.min()
    array = np.pad(volume.array, ((0, z) if upwards else (z, 0), (0, 0), (0, 0)), constant_values=air)
    return Volume(array, volume.grid.cropped((0 if upwards else -z, 0, 0), array.shape), volume.modality, volume.name)


def shared_points(fixed: Volume, moving: Volume, rng: np.random.Generator) -> np.ndarray:
    """200 points (N, 3) of the anatomy of both scans, which lie in one frame."""
    points = None
    for volume in (moving, fixed):
        raw, grid = to_canonical(volume, volume.modality)
        mask = anatomy_voxels(raw, volume.modality, 2.0)
        if points is None:
            cells = np.argwhere(mask)
            points = grid.index_to_world(cells[rng.permutation(len(cells))[: 50 * POINTS]])
        index = np.rint(grid.world_to_index(points)).astype(int)
        inside = ((index >= 0) & (index < grid.shape_zyx)).all(axis=1)
        points = points[inside][mask[tuple(index[inside].T)]]
    return points[:POINTS]


def landmark_case(fixed: Volume, moving: Volume, fixed_file: Path, moving_file: Path) -> Case:
    """Two patients with landmarks of the same names."""
    there = {p.label: p.position_lps for p in read_points(moving_file) if p.position_lps}
    both = [(p.position_lps, there[p.label]) for p in read_points(fixed_file) if p.position_lps and p.label in there]
    points, truth = (np.array(side) for side in zip(*both, strict=True))
    return Case(f"{fixed.name}>{moving.name}", fixed, moving, points, truth)


def run_ours(name: str, case: Case, embedder: Embedder) -> tuple[Mapping, dict]:
    """Our registration; the embeddings of both scans are made before the clock starts, those of the turned moving scan count."""
    fixed, moving = (Scan(volume, embedder(volume)) for volume in (case.fixed, case.moving))
    embedder.spared[:] = 0
    start = clock()
    result = register_scans(fixed, moving, embedder, OURS[name])
    wall, cpu = clock() - start + embedder.spared
    figures = {
        "expected_tre_mm": result.expected_tre_mm,
        "folding": result.folding,
        "inliers": int(result.inlier.sum()),
        "note": result.note,
    }
    return result.transform, {**figures, "seconds": wall, "cpu_seconds": cpu}


def run_simpleitk(case: Case) -> tuple[Mapping, dict]:
    """Rigid mutual information from the geometric start, three resolutions, as in the SimpleITK notebooks."""
    wall, cpu = time.perf_counter(), time.process_time()
    fixed, moving = (sitk.Cast(to_sitk(v), sitk.sitkFloat32) for v in (case.fixed, case.moving))
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)

    def mapping(points: np.ndarray) -> np.ndarray:
        return np.array([found.TransformPoint(p) for p in points.tolist()])

    return mapping, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def run_elastix(case: Case, stages: tuple[str, ...]) -> tuple[Mapping, dict]:
    """itk-elastix with its default parameter maps, started at the geometric centres."""
    import itk

    _ = itk.ParameterObject.New(), itk.elastix_registration_method, itk.TransformixFilter  # itk loads its parts at first use; not timed
    wall, cpu = time.perf_counter(), time.process_time()
    images = []
    for volume in (case.fixed, case.moving):
        image = itk.image_from_array(np.ascontiguousarray(volume.array, dtype=np.float32))
        image.SetSpacing(volume.grid.spacing_xyz.tolist())
        image.SetOrigin(volume.grid.origin.tolist())
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(volume.grid.direction)))
        images.append(image)
    parameters = itk.ParameterObject.New()
    for stage in stages:
        values = parameters.GetDefaultParameterMap(stage)
        if stage == stages[0]:
            values["AutomaticTransformInitialization"] = ("true",)
        values["WriteResultImage"] = ("false",)
        parameters.AddParameterMap(values)
    _, found = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False, number_of_threads=os.cpu_count())
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}

    def mapping(points: np.ndarray) -> np.ndarray:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            file = Path(folder) / "points.txt"
            file.write_text("point\n" + f"{len(points)}\n" + "\n".join(" ".join(f"{v:.6f}" for v in p) for p in points))
            filtered = itk.TransformixFilter.New(images[1])
            filtered.SetFixedPointSetFileName(str(file))
            filtered.SetTransformParameterObject(found)
            filtered.SetOutputDirectory(folder)
            filtered.Update()
            lines = (Path(folder) / "outputpoints.txt").read_text().splitlines()
        return np.array([[float(v) for v in line.split("OutputPoint = [")[1].split("]")[0].split()] for line in lines])

    return mapping, spent


def run_convexadam(case: Case) -> tuple[Mapping, dict]:
    """ConvexAdam (MIND features, default settings) on 2 mm voxels after the affine of elastix."""
    from convexAdam.convex_adam_MIND import convex_adam_pt

    affine, spent = run_elastix(case, ("affine",))
    wall, cpu = time.perf_counter(), time.process_time()
    raw, grid = to_canonical(case.fixed, modality_of(case.fixed))
    corners = np.vstack([grid.corners(), grid.corners().mean(axis=0)])
    mapped = affine(corners)
    matrix = np.linalg.lstsq(np.hstack([corners, np.ones((9, 1))]), mapped, rcond=None)[0].T
    transform = sitk.AffineTransform(matrix[:, :3].ravel().tolist(), matrix[:, 3].tolist())
    reference = to_sitk(Volume(raw, grid))
    warped = sitk.GetArrayFromImage(
        sitk.Resample(sitk.Cast(to_sitk(case.moving), sitk.sitkFloat32), reference, transform, sitk.sitkLinear, -1024.0)
    )
    field = np.asarray(convex_adam_pt(raw, warped), dtype=np.float64)  # (Z, Y, X, 3): voxels along z, y, x, fixed to moving
    spent = {k: v + t for (k, v), t in zip(spent.items(), (time.perf_counter() - wall, time.process_time() - cpu), strict=True)}

    def mapping(points: np.ndarray) -> np.ndarray:
        from scipy import ndimage

        index = grid.world_to_index(points)
        moved = np.stack([ndimage.map_coordinates(field[..., c], index.T, order=1, mode="nearest") for c in range(3)], axis=1)
        return grid.index_to_world(index + moved) @ matrix[:, :3].T + matrix[:, 3]

    return mapping, spent


PEERS: dict[str, Callable[[Case], tuple[Mapping, dict]]] = {
    "SimpleITK rigid": run_simpleitk,
    "elastix rigid": lambda case: run_elastix(case, ("rigid",)),
    "elastix affine": lambda case: run_elastix(case, ("affine",)),
    "elastix B-spline": lambda case: run_elastix(case, ("affine", "bspline")),
    "ConvexAdam": run_convexadam,
}


def measure(method: str, case: Case, embedder: Embedder) -> dict:
    """One line of results; whatever a method raises counts as a failure."""
    try:
        mapping, figures = run_ours(method, case, embedder) if method in OURS else PEERS[method](case)
    except (NoCommonAnatomy, RuntimeError) as error:
        return {"failure": str(error)[-300:], "seconds": None, "cpu_seconds": None}
    errors = np.linalg.norm(mapping(case.points) - case.truth, axis=1)
    return {"tre_mm": errors.round(3).tolist(), **figures}


def make_case(kind: str, data: Path, fixed: str, moving: str, seed: int) -> Case:
    """The case of two scans, named without their extension."""
    scans = [read_volume(data / f"{name}.nii.gz") for name in (fixed, moving)]
    scans = [identify(v).volume for v in scans]
    if kind == "landmarks":
        return landmark_case(*scans, data / f"{fixed}.mrk.json", data / f"{moving}.mrk.json")
    return identity_case(kind, *scans, seed)


def run(suite: list[dict], data: Path, out: Path) -> None:
    """Run what is missing, case by case."""
    session = Session(device="cpu")
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["group"], r["case"], r["method"]) for r in map(json.loads, lines)}
    for group in suite:
        for (fixed, moving), seed in itertools.product(group["pairs"], range(group.get("cases", 1))):
            name = f"{Path(fixed).name}>{Path(moving).name}#{seed}"
            missing = [method for method in group["methods"] if (group["group"], name, method) not in done]
            if not missing:
                continue
            case, embedder = make_case(group["kind"], data, fixed, moving, seed), Embedder(session)
            subset = "best truth" if fixed in group.get("best_truth", []) else ""
            for method in missing:
                row = {"group": group["group"], "subset": subset, "case": name, "method": method, **measure(method, case, embedder)}
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                outcome = f"{np.median(row['tre_mm']):.1f} mm" if "tre_mm" in row else row["failure"]
                print(f"{group['group']}  {name}  {method}  {outcome}  {row['seconds'] or np.nan:.1f} s", flush=True)


def table(rows: list[dict], failure_mm: float) -> None:
    """Median and 95th percentile over all points of all cases, share of the cases whose median exceeds the failure limit, seconds."""
    for group in dict.fromkeys(r["group"] for r in rows):
        own = [r for r in rows if r["group"] == group]
        for subset in sorted({"", *(r["subset"] for r in own)}):
            print(f"\n{group}{', ' if subset else ''}{subset}")
            chosen = [r for r in own if subset in ("", r["subset"])]
            for method in dict.fromkeys(r["method"] for r in chosen):
                print(f"  {method:28s} {summary([r for r in chosen if r['method'] == method], failure_mm)}")


def summary(rows: list[dict], failure_mm: float) -> str:
    """One line of the table."""
    solved = [r for r in rows if "tre_mm" in r]
    points = np.concatenate([r["tre_mm"] for r in solved]) if solved else np.array([np.nan])
    medians = [np.median(r["tre_mm"]) for r in solved]
    failed = sum(m > failure_mm for m in medians) + len(rows) - len(solved)
    wall, cpu = (np.median([r[key] for r in solved]) if solved else np.nan for key in ("seconds", "cpu_seconds"))
    folding = max((r.get("folding", 0) for r in solved), default=0)
    return (
        f"cases {len(rows):3d}  TRE median {np.median(points):6.1f}  p95 {np.percentile(points, 95):6.1f} mm  failures {failed:2d}, "
        f"{100 * failed / len(rows):5.1f} %  {wall:6.1f} s (CPU {cpu:.1f} s)" + (f"  folding {100 * folding:.2f} %" if folding else "")
    )


def main() -> None:
    """Run the suite, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True, help="file of results, one JSON object per line")
    parser.add_argument("--data", type=Path, help="folder that the names of the suite start from")
    parser.add_argument("--suite", type=Path, default=SUITE)
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--failure-mm", type=float, default=FAILURE_MM)
    args = parser.parse_args()
    if args.job == "run":
        if args.data is None:
            parser.error("run needs --data")
        suite = {g["group"]: g for g in json.loads(args.suite.read_text())}
        if unknown := set(args.groups or ()) - set(suite):
            parser.error(f"no group is called {', '.join(sorted(unknown))}; there are {', '.join(suite)}")
        run([suite[name] for name in args.groups or suite], args.data, args.out)
    table([json.loads(line) for line in args.out.read_text().splitlines()], args.failure_mm)


if __name__ == "__main__":
    main()

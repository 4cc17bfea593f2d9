"""The command ``uae``: parse, call the session, write files."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from ..landmarks.points import Point, PointList, read_points, write_points
from ..options import MatchOptions, Method
from ..system.errors import InputError
from ..system.files import writable_folder, write_atomically
from ..system.progress import Cancelled, Progress
from . import models, register, scans, serve

MATCH_COLUMNS = ("target", "landmark", "x", "y", "z", "similarity", "margin", "cycle_mm", "confidence", "status")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without some letter of a name shows "?" instead of failing
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except InputError as error:
        print(f"uae: {error}", file=sys.stderr)
    except (KeyboardInterrupt, Cancelled):
        print("uae: stopped.", file=sys.stderr)
    except OSError as error:
        what = f"{error.filename or 'A file'} cannot be used ({error.strerror or error})"
        print(f"uae: {what}. Check its path, its permissions and the free space.", file=sys.stderr)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("memory|alloc", str(error)):
            raise
        print("uae: not enough memory for this scan; close other programs or crop the scan.", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="uae", description="Find the same anatomy in other scans.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    match = _command(commands, "match", _match, "find landmarks of a template scan in target scans", job=True)
    match.add_argument("--template", required=True, help="scan file or DICOM folder that the landmarks belong to")
    match.add_argument("--landmarks", help=".mrk.json, .fcsv or .csv file")
    match.add_argument("--landmark", action="append", default=[], metavar="NAME=x,y,z", help="a landmark in LPS mm; repeatable")
    match.add_argument("--target", required=True, action="append", help="scan to search; repeatable")
    match.add_argument("--out", required=True, type=Path, help="folder for the results")
    _add_cache(match)

    command = _command(commands, "register", _register, "bring one scan into the frame of another", job=True)
    register.add_arguments(command)
    _add_cache(command)

    embed = _command(commands, "embed", _embed, "embed scans into the cache ahead of time", job=True)
    embed.add_argument("images", nargs="+", metavar="IMAGE")
    _add_cache(embed)

    evaluate = _command(commands, "evaluate", _evaluate, "measure matching against known truth", job=True)
    evaluate.add_argument("pairs", metavar="PAIRS.json")
    evaluate.add_argument("--out", required=True, type=Path, help="folder for the results")

    demo = _command(commands, "demo", _demo, "two made-up torsos, the whole path, true errors; needs no data", job=True)
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (default: demo)")

    command = _command(commands, "serve", serve.run, "the same tool in a browser", job=True)
    serve.add_options(command)
    _add_cache(command)

    info = _command(commands, "info", scans.info, "what a scan file holds")
    info.add_argument("image")
    info.add_argument("--modality", choices=["auto", "ct", "mr"], default="auto")

    models.add_arguments(
        _command(commands, "models", lambda args: models.run(args, _bar), "list the models, show one, or get published ones")
    )

    cache = _command(commands, "cache", _cache_command, "show or empty the embedding cache")
    cache.add_argument("action", choices=["info", "clear"])
    _add_cache(cache)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, job: bool = False) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    if job:
        parser.add_argument("--model", help="catalogue id or .safetensors file (default: the bundled model)")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
        parser.add_argument("--modality", choices=["auto", "ct", "mr"], default="auto", help="of all scans given; auto: each scan's own")
        parser.add_argument("--compat", action="store_true", help="as the published SAM and UAE code, flaws included; for imported models")
    if job and name not in ("embed", "register"):
        parser.add_argument("--method", choices=get_args(Method), default=MatchOptions().method)
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, help="cache folder (default: $UAE_CACHE or the user's cache folder)")


def _match(args: argparse.Namespace) -> int:
    points = _landmarks(args)
    names = _result_names([args.template, *args.target])
    session = _session(args, use_cache=True)
    writable_folder(args.out, "--out")
    template = scans.scan(args.template, args, names[0])
    with _bar("template") as progress:
        prepared = session.embed(template, progress)
    wanted = np.array([p.position_lps for p in points])
    if not (inside := prepared.embedding.contains(wanted)).all():
        first = int(inside.argmin())
        where = f"'{[*points][first].label}' at LPS ({scans.vector(wanted[first])}) mm"
        raise InputError(f"Landmark {where} lies outside the patient in {template.name}; place it inside the scan, or leave it out.")
    targets, matches, failures = [], [], 0
    for path, name in zip(args.target, names[1:], strict=True):
        try:
            target = scans.scan(path, args, name)
            with _bar(name) as progress:
                found = session.match(prepared, wanted, session.embed(target, progress), _options(args))
        except InputError as error:
            print(f"uae: {error}", file=sys.stderr)
            failures += 1
            continue
        write_points(_as_points(points, found, name), args.out / f"{name}.mrk.json")
        targets.append(target)
        matches.append(found)
    if targets:
        rows = [(t.name, p, m) for t, found in zip(targets, matches, strict=True) for p, m in zip(points, found, strict=True)]
        _write_matches(args.out / "matches.csv", rows)
        _write_report(template, points, targets, matches, args.out / "report.png")
        _print_matches(rows)
        print(f"wrote {args.out}/matches.csv, report.png and {len(targets)} landmark file(s)")
    return 2 if failures else 0


def _register(args: argparse.Namespace) -> int:
    with _bar("register") as progress:
        session, read = lambda: _session(args, use_cache=True), lambda path: scans.identified(path, args)
        print(register.run(args, session, read, progress))
    return 0


def _embed(args: argparse.Namespace) -> int:
    session = _session(args, use_cache=True)
    failures = 0
    for path in args.images:
        try:
            volume = scans.scan(path, args)
            with _bar(volume.name) as progress:
                scan = session.embed(volume, progress).embedding
        except InputError as error:
            print(f"uae: {error}", file=sys.stderr)
            failures += 1
            continue
        size = (scan.fine.nbytes + scan.coarse.nbytes) / 2**20
        print(f"{volume.name}: {' x '.join(str(n) for n in scan.fine.shape[:3])} cells, {size:.0f} MiB, in {session.cache.folder}")
    return 2 if failures else 0


def _evaluate(args: argparse.Namespace) -> int:
    from ..report.evaluation import evaluate, read_pairs

    pairs = read_pairs(args.pairs)
    session = _session(args, use_cache=False)
    writable_folder(args.out, "--out")
    volumes: dict[str, Any] = {}

    def keep(found: Any) -> None:
        volumes[found.volume.name] = found.volume
        tqdm.write(f"{found.volume.name}: {found.text}")

    with _bar("evaluate") as progress:
        result = evaluate(pairs, session, _options(args), scans.modality(args), progress, keep)
    _write_evaluation(result, volumes, args.out)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from ..phantom.patient import demo_pair
    from ..report.evaluation import Evaluation, Outcome

    session = _session(args, use_cache=False)
    writable_folder(args.out, "--out")
    pair = demo_pair()
    start = perf_counter()
    with _bar("template") as progress:
        template = session.embed(pair.template, progress)
    with _bar("target") as progress:
        target = session.embed(pair.target, progress)
    embedded = perf_counter()
    labels = [name for name, _ in pair.template_landmarks]
    wanted = np.array([position for _, position in pair.template_landmarks])
    found = session.match(template, wanted, target, _options(args))
    truth = [dict(pair.target_landmarks).get(name) for name in labels]
    names = (pair.template.name, pair.target.name)
    outcomes = tuple(Outcome(*names, k, p, m, t) for k, p, m, t in zip(labels, wanted, found, truth, strict=True))
    result = Evaluation(outcomes, embedded - start, perf_counter() - embedded, 2)
    points = PointList(tuple(Point(k, tuple(p)) for k, p in zip(labels, wanted, strict=True)))
    _write_report(pair.template, points, [pair.target], [found], args.out / "report.png")
    for o in outcomes:
        error = "not in the target" if o.error_mm is None else f"{o.error_mm:6.1f} mm"
        print(f"{o.label:32s} {error:>18s}   {o.match.status}")
    _write_evaluation(result, {v.name: v for v in (pair.template, pair.target)}, args.out)
    return 0


def _cache_command(args: argparse.Namespace) -> int:
    cache = _cache(args)
    if args.action == "clear":
        print(f"removed {cache.clear()} embedding(s) from {cache.folder}")
        return 0
    entries = cache.entries()
    used = sum(size for _, size, _ in entries)
    print(f"{cache.folder}: {len(entries)} embedding(s), {used / 2**20:.0f} MiB of at most {cache.cap_bytes / 2**20:.0f} MiB")
    return 0


def _landmarks(args: argparse.Namespace) -> PointList:
    points = list(read_points(args.landmarks)) if args.landmarks else []
    points += [_parse_landmark(text) for text in args.landmark]
    defined = tuple(p for p in points if p.position_lps is not None)
    if not defined:
        raise InputError("No landmark with a position was given; use --landmarks FILE or --landmark NAME=x,y,z (LPS mm).")
    return PointList(defined)


def _parse_landmark(text: str) -> Point:
    name, _, position = text.rpartition("=")
    try:
        x, y, z = (float(v) for v in position.split(","))
    except ValueError:
        raise InputError(f"'{text}' is not a landmark; write NAME=x,y,z in LPS mm, for example carina=-1.4,18.3,-115.4.") from None
    if not name or not np.isfinite([x, y, z]).all():
        raise InputError(f"'{text}' is not a landmark; write NAME=x,y,z in LPS mm with a name and finite numbers.")
    return Point(name, (x, y, z))


def _result_names(paths: Sequence[str]) -> list[str]:
    """File-system safe names, made unique by a number: one scan may be given twice, two folders may hold the same file name."""
    from ..report.evaluation import unique_name

    names: list[str] = []
    for path in paths:
        base = Path(path).resolve().name
        for ending in (".gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"):
            base = base.removesuffix(ending)
        names.append(unique_name(base or "scan", names))
    return names


def _session(args: argparse.Namespace, use_cache: bool):
    from ..session import Session

    return Session(args.model, args.device, _cache(args) if use_cache else None, args.compat)


def _options(args: argparse.Namespace) -> MatchOptions:
    return MatchOptions(method=args.method, compat=args.compat)


def _cache(args: argparse.Namespace):
    from ..embedding.cache import Cache, default_folder

    return Cache(args.cache or default_folder())


def _as_points(points: PointList, matches: Sequence[Any], name: str) -> PointList:
    """The matches as a landmark list: same labels and ids, absent ones without a position."""
    found = []
    for point, match in zip(points, matches, strict=True):
        absent = match.status == "absent"
        x, y, z = (float(v) for v in match.point_lps)
        measurements = {} if np.isnan(match.confidence) else {"confidence": match.confidence}
        found.append(
            Point(
                label=point.label,
                position_lps=None if absent else (x, y, z),
                description="; ".join(filter(None, (point.description, match.status, match.note))),
                id=point.id,
                status="missing" if absent else "defined",
                measurements={**measurements, "similarity": match.similarity, "cycle_mm": match.cycle_mm},
            )
        )
    return PointList(tuple(found), name)


def _write_matches(path: Path, rows: Sequence[tuple[str, Point, Any]]) -> None:
    with write_atomically(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(MATCH_COLUMNS)
        for target, point, m in rows:
            position = ("", "", "") if m.status == "absent" else tuple(f"{v:.3f}" for v in m.point_lps)
            confidence = "" if np.isnan(m.confidence) else f"{m.confidence:.4f}"
            writer.writerow(
                (target, point.label, *position, f"{m.similarity:.4f}", f"{m.margin:.4f}", f"{m.cycle_mm:.2f}", confidence, m.status)
            )


def _write_report(template: Any, points: PointList, targets: Sequence[Any], matches: Sequence[Sequence[Any]], path: Path) -> None:
    from ..report.figures import Row, match_report

    rows = [Row(p.label, np.array(p.position_lps), [found[i] for found in matches]) for i, p in enumerate(points)]
    match_report(template, targets, rows, path)


def _print_matches(rows: Sequence[tuple[str, Point, Any]]) -> None:
    for target, point, m in rows:
        confidence = "" if np.isnan(m.confidence) else f"{100 * m.confidence:3.0f} %"
        print(
            f"{target:28s} {point.label:28s} {'' if m.status == 'absent' else scans.vector(m.point_lps):>26s}  {m.status:9s} {confidence}"
        )


def _write_evaluation(result: Any, volumes: dict[str, Any], out: Path) -> None:
    from ..report.evaluation import summarise
    from ..report.figures import error_report

    summary = summarise(result)
    with write_atomically(out / "evaluation.json") as staged:
        staged.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    _write_matches(out / "matches.csv", [(o.target, Point(o.label, tuple(o.template_point)), o.match) for o in result.outcomes])
    error_report(result.outcomes, volumes, out / "errors.png")
    for label, group in [*summary["by_landmark"].items(), ("all", summary)] if len(summary["by_landmark"]) <= 60 else [("all", summary)]:
        if group["n"]:
            print(
                f"{label:32s} n {group['n']:4d}  median {group['median_mm']:6.1f}  mean {group['mean_mm']:6.1f}  "
                f"p95 {group['p95_mm']:6.1f} mm  CPM@10 {100 * group['cpm10']:5.1f} %"
            )
    for key, text in (("absent_sensitivity", "absent called absent"), ("absent_specificity", "present not called absent")):
        if summary[key] is not None:
            print(f"{text:32s} {100 * summary[key]:5.1f} %")
    print(
        f"embedding {summary['seconds_embed']:.1f} s for {summary['scans']} scans, matching {summary['seconds_match']:.2f} s; "
        f"wrote {out}/evaluation.json, matches.csv, errors.png"
    )


class _bar:
    """A progress bar on stderr that a job drives with (fraction, text)."""

    def __init__(self, name: str) -> None:
        self.bar = tqdm(total=100, desc=name[:24], bar_format="{desc} {bar} {n:.0f} % {postfix}", leave=False, disable=None)

    def __enter__(self) -> Progress:
        return self.show

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, fraction: float, text: str) -> None:
        self.bar.n = 100 * fraction
        self.bar.set_postfix_str(text)

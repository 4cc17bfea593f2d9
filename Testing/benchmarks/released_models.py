"""How much the package saves with the released networks against the published way, on this machine's CPU.

``python Testing/benchmarks/released_models.py [tile] [volume] [click] [--small] [--out FILE]``; without a part all three. Embedding a tile and
a volume is measured once each way, every run in a process of its own, and the descriptors of both are compared; a click is asked both ways of
the same two embedded scans. The published way is ``Testing/parity/published.py``: plain calls on the whole volume. Random weights: time and
memory do not depend on them. The volume takes the published way about 15 GiB; ``--small`` only shows that the program works. Every finished
line is printed and appended to FILE at once. Linux.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import published

from UniversalAnatomicalEmbeddingLib.embedding import Embedding, embed_image
from UniversalAnatomicalEmbeddingLib.images import Grid, approximate_body, scale_intensity
from UniversalAnatomicalEmbeddingLib.matching import Searchable, find_peaks, match_points
from UniversalAnatomicalEmbeddingLib.models import (
    RELEASED_INTENSITY,
    Model,
    ModelCard,
    build_network,
)
from UniversalAnatomicalEmbeddingLib.networks import Embedder, fold_batch_norm
from UniversalAnatomicalEmbeddingLib.phantom import make_patient, render

THREADS = 2
SIZES = {"tile": (80, 160, 160), "volume": (350, 200, 200), "click": (352, 208, 208)}
SMALL = {"tile": (16, 48, 48), "volume": (36, 64, 64), "click": (48, 64, 64)}
NATIVE_ENLARGED = (1, 5, 5)  # scanner voxels to a fine cell: 4 mm slices of 0.8 mm voxels. Odd numbers: the centres of the cells are voxels
CLICKS = 8
COMPARED = 1000
CARD = ModelCard("sam", "", "resnet3d18-fpn", ("ct",), (), "", "", {"semantic": False}, RELEASED_INTENSITY, "released")


def network() -> Embedder:
    """SAM with random weights and statistics."""
    torch.manual_seed(0)
    made = build_network(CARD).eval()
    for name, value in made.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.3)
    return made


def memory() -> tuple[float, float]:
    """What this process holds now and the most that it ever held, GiB."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return now / 2**30, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def say(text: str) -> None:
    """Progress, on stderr and at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --- embedding ------------------------------------------------------------------------------------------------------------------------


def embed(shape: tuple[int, int, int], way: str, sample: Path) -> dict[str, float]:
    """Time and peak memory of one embedding of noise; some fine descriptors go to ``sample``."""
    made, image = network(), np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    cells = np.random.default_rng(1).integers(0, np.array(shape) // 2, (COMPARED, 3)).T
    if way == "ours":
        folded = fold_batch_norm(made)
        del made
        (before, _), start, used = memory(), time.perf_counter(), time.process_time()
        fine, _ = embed_image(image, folded, "cpu", lambda fraction, text: say(f"  ours: {100 * fraction:.0f} %, {text}"))
        seconds, used, peak = time.perf_counter() - start, time.process_time() - used, memory()[1]
        found = fine[tuple(cells)]
    else:
        state, whole = {k: v.contiguous() for k, v in made.state_dict().items()}, torch.from_numpy(image)[None, None]
        del made
        (before, _), start, used = memory(), time.perf_counter(), time.process_time()
        with torch.inference_mode():
            maps = published.embed(state, whole)
        seconds, used, peak = time.perf_counter() - start, time.process_time() - used, memory()[1]
        found = maps["fine"][0][(slice(None), *cells)].T.numpy()
    np.save(sample, found.astype(np.float32))
    return {"seconds": seconds, "processor_seconds": used, "peak_gib": peak, "before_gib": before}


def compare(part: str, small: bool) -> str:
    """Both ways, each in its own process."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        samples = {way: Path(folder) / f"{way}.npy" for way in ("ours", "published")}
        for way, sample in samples.items():
            say(f"{part}, {way}")
            command = [sys.executable, __file__, part, *(["--small"] if small else []), "--way", way, "--sample", str(sample)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                return f"{part}: the {way} way ended with code {done.returncode} (-9: not enough memory); no ratio"
            results[way] = json.loads(done.stdout)
        ours, theirs = (torch.from_numpy(np.load(sample)) for sample in samples.values())
    least = float(F.cosine_similarity(ours, theirs).min())
    a, b = results["ours"], results["published"]
    each = "; ".join(
        f"{way} {r['seconds']:.1f} s ({r['processor_seconds']:.1f} s of processor time), peak {r['peak_gib']:.2f} GiB, "
        f"{r['before_gib']:.2f} of it before"
        for way, r in results.items()
    )
    above = (b["peak_gib"] - b["before_gib"]) / (a["peak_gib"] - a["before_gib"])
    return (
        f"{part} {'x'.join(map(str, sizes(small)[part]))}: {each}. Ours is {b['seconds'] / a['seconds']:.2f} times faster "
        f"({b['processor_seconds'] / a['processor_seconds']:.2f} in processor time), with {b['peak_gib'] / a['peak_gib']:.1f} times less peak memory "
        f"({above:.1f} times without what was there before); least cosine of {COMPARED} descriptors {least:.6f}"
    )


# --- click ----------------------------------------------------------------------------------------------------------------------------


def scan(seed: int, shape: tuple[int, int, int], model: Model) -> tuple[Searchable, np.ndarray]:
    """A made-up torso, embedded, and which of its fine cells lie in the body. All cells are searched, since the published rule searches air too."""
    say(f"click, torso {seed}")
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -np.array(shape[::-1])
    volume = render(make_patient(seed), Grid(shape, affine), noise_seed=seed)
    image = scale_intensity(np.asarray(volume.array, np.float32), "ct", RELEASED_INTENSITY)
    fine, coarse = embed_image(image, model.network, "cpu")
    body = approximate_body(np.asarray(volume.array[1::2, 1::2, 1::2], np.float32), "ct", 4.0)
    strides = model.network.fine_stride, model.network.coarse_stride
    return Searchable(
        Embedding(fine, coarse, np.ones_like(body), np.ones_like(body), volume.grid, *strides, 2, "sam", f"torso {seed}", "released")
    ), body


def maps_of(searchable: Searchable) -> dict[str, torch.Tensor]:
    """The same descriptors as the published code holds them."""
    fine = torch.from_numpy(searchable.embedding.fine.astype(np.float32))
    return {"fine": fine.permute(3, 0, 1, 2)[None].contiguous(), "coarse": searchable.coarse.permute(3, 0, 1, 2)[None].contiguous()}


def click(small: bool) -> str:
    """One landmark in two embedded torsos: the published rule, our search alone, and our whole answer with anchors, way back and verdict."""
    shape, model = sizes(small)["click"], Model(fold_batch_norm(network()), CARD)
    (template, body), (target, _) = scan(1, shape, model), scan(2, shape, model)
    cells = np.random.default_rng(0).permutation(np.argwhere(body))[:CLICKS]
    maps = maps_of(template), maps_of(target)
    points = template.embedding.fine_grid.index_to_world(cells)
    enlarged = np.array(NATIVE_ENLARGED)
    native, ratio = tuple(int(n) for n in enlarged * target.shape), 2 / enlarged[::-1]
    match_points([(template, points[:1])], target)  # finds the anchors of the pair, once
    seconds: dict[str, list[float]] = {"published": [], "search": [], "answer": []}
    same = 0
    for n, (cell, point) in enumerate(zip(cells, points, strict=True)):
        start = time.perf_counter()
        found = find_peaks(template.query(point[None]), target)
        seconds["search"].append(time.perf_counter() - start)
        start = time.perf_counter()
        match_points([(template, point[None])], target)
        seconds["answer"].append(time.perf_counter() - start)
        start = time.perf_counter()
        voxel, _ = published.nearest_voxel(*maps, (cell * enlarged)[::-1] + enlarged[::-1] // 2, ratio, native)
        seconds["published"].append(time.perf_counter() - start)
        same += int((voxel[::-1] // enlarged == found.cell[0]).all())
        say(f"click {n + 1} of {CLICKS}: published {seconds['published'][-1]:.2f} s, our answer {1000 * seconds['answer'][-1]:.1f} ms")
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    return (
        f"click in {'x'.join(map(str, native))} voxels, median of {CLICKS}: published {median['published']:.2f} s, our search "
        f"{1000 * median['search']:.1f} ms ({median['published'] / median['search']:.0f} times faster), our whole answer "
        f"{1000 * median['answer']:.1f} ms ({median['published'] / median['answer']:.0f} times); same cell {same} of {CLICKS}"
    )


def sizes(small: bool) -> dict[str, tuple[int, int, int]]:
    """Voxels (z, y, x) of each part."""
    return SMALL if small else SIZES


def main() -> None:
    """Run the parts one after the other, or with ``--way`` one embedding here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(SIZES)} (default: all)")
    parser.add_argument("--small", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--out", type=Path, help="file that every result is appended to")
    parser.add_argument("--way", choices=["ours", "published"], help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    args: Any = parser.parse_args()
    if unknown := set(args.parts) - set(SIZES):
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(SIZES)}")
    torch.set_num_threads(THREADS)
    if args.way:
        print(json.dumps(embed(sizes(args.small)[args.parts[0]], args.way, args.sample)))
        return
    for part in args.parts or SIZES:
        line = click(args.small) if part == "click" else compare(part, args.small)
        print(line, flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()

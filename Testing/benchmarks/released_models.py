"""How much the package saves with the released networks against the published way, on this machine's CPU.

``python Testing/benchmarks/released_models.py [tile|volume|click] [ours|published]``; without arguments all of them, each in its own process.
The published way is ``Testing/parity/published.py``: plain calls on the whole volume. Random weights: time and memory do not depend on them.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import published

from UniversalAnatomicalEmbeddingLib.catalogue import Model, ModelCard, build_network
from UniversalAnatomicalEmbeddingLib.embedding import Embedding, embed_image
from UniversalAnatomicalEmbeddingLib.geometry import Grid
from UniversalAnatomicalEmbeddingLib.matching import match_points
from UniversalAnatomicalEmbeddingLib.matching.nearest import find_peaks
from UniversalAnatomicalEmbeddingLib.matching.similarity import Searchable
from UniversalAnatomicalEmbeddingLib.networks.fold import fold_batch_norm
from UniversalAnatomicalEmbeddingLib.phantom import make_patient, render
from UniversalAnatomicalEmbeddingLib.preprocess import body_mask, scale_intensity
from UniversalAnatomicalEmbeddingLib.releases import RELEASED_INTENSITY

THREADS = 2
SIZES = {"tile": (80, 160, 160), "volume": (350, 200, 200), "click": (352, 208, 208)}
NATIVE = (352, 416, 416)
CLICKS = 8
CARD = ModelCard("sam", "", "resnet3d18-fpn", ("ct",), (), "", "", {"semantic": False}, RELEASED_INTENSITY, "released")


def network() -> torch.nn.Module:
    """SAM with random weights and statistics."""
    torch.manual_seed(0)
    made = build_network(CARD).eval()
    for name, value in made.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.3)
    return made


def embed(size: str, way: str) -> str:
    """Time and peak memory of one embedding of noise."""
    made, image = network(), np.random.default_rng(0).normal(0, 60, SIZES[size]).astype(np.float32)
    if way == "ours":
        folded = fold_batch_norm(made)
        del made
        start, used = time.perf_counter(), time.process_time()
        embed_image(image, folded, "cpu")
    else:
        start, used = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            published.embed({k: v.contiguous() for k, v in made.state_dict().items()}, torch.from_numpy(image)[None, None])
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{size} {'x'.join(map(str, SIZES[size]))}, {way}: {seconds:.1f} s ({used:.1f} s of processor time), peak memory of the process {peak:.2f} GiB"


def scan(seed: int) -> Searchable:
    """A made-up torso, embedded."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-208, -208, -352]
    volume = render(make_patient(seed), Grid(SIZES["click"], affine), noise_seed=seed)
    image = scale_intensity(np.asarray(volume.array, np.float32), "ct", RELEASED_INTENSITY)
    model = Model(fold_batch_norm(network()), CARD)
    fine, coarse = embed_image(image, model.network, "cpu")
    body = body_mask(np.asarray(volume.array[1::2, 1::2, 1::2], np.float32), "ct", 4.0)
    strides = model.network.fine_stride, model.network.coarse_stride
    return Searchable(Embedding(fine, coarse, body, volume.grid, *strides, 2, "sam", f"torso {seed}", "released"))


def click() -> str:
    """One landmark in two embedded torsos: the published rule, our search alone, and our whole answer with anchors, way back and verdict."""
    template, target = scan(1), scan(2)
    cells = np.random.default_rng(0).permutation(np.argwhere(template.embedding.body))[:CLICKS]
    maps = [
        {
            "fine": torch.from_numpy(s.embedding.fine.astype(np.float32)).permute(3, 0, 1, 2)[None],
            "coarse": s.coarse.permute(3, 0, 1, 2)[None],
        }
        for s in (template, target)
    ]
    points = template.embedding.fine_grid.index_to_world(cells)
    match_points([(template, points[:1])], target)
    seconds, same = {"published": [], "search": [], "answer": []}, 0
    for cell, point in zip(cells, points, strict=True):
        start = time.perf_counter()
        found = find_peaks(template.query(point[None]), target)
        seconds["search"].append(time.perf_counter() - start)
        start = time.perf_counter()
        match_points([(template, point[None])], target)
        seconds["answer"].append(time.perf_counter() - start)
        start = time.perf_counter()
        ratio = np.array([0.5, 0.5, 1.0])
        voxel, _ = published.nearest_voxel(*maps, cell[::-1] * 2 / ratio + 0.1, ratio, NATIVE)
        seconds["published"].append(time.perf_counter() - start)
        same += int((np.floor(voxel * ratio / 2) == found.cell[0, ::-1]).all())
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    return (
        f"click, median of {CLICKS}: published {median['published']:.2f} s, our search {1000 * median['search']:.1f} ms "
        f"({median['published'] / median['search']:.0f} times faster), our whole answer {1000 * median['answer']:.1f} ms "
        f"({median['published'] / median['answer']:.0f} times); same cell {same} of {CLICKS}"
    )


def main() -> None:
    """Run one job here, or each in a process of its own."""
    torch.set_num_threads(THREADS)
    if len(sys.argv) > 1:
        print(click() if sys.argv[1] == "click" else embed(sys.argv[1], sys.argv[2]), flush=True)
        return
    for job in (["tile", "ours"], ["tile", "published"], ["volume", "ours"], ["volume", "published"], ["click"]):
        subprocess.run([sys.executable, __file__, *job], check=True)


if __name__ == "__main__":
    main()

"""Seconds and peak memory of the everyday jobs on this machine: ``python Testing/benchmarks/speed.py [embed|click|batch|body] [--device cuda]``."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from UniversalAnatomicalEmbeddingLib.images import Grid, Volume
from UniversalAnatomicalEmbeddingLib.session import Session

THREADS = 2


def torso(shape_zyx: tuple[int, int, int], spacing_xyz_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Volume:
    """A CT-like int16 volume with a body that fills most of it, so that nothing is saved by cropping."""
    rng = np.random.default_rng(0)
    array = np.full(shape_zyx, -1000, dtype=np.int16)
    _, y, x = shape_zyx
    body = array[:, y // 12 : -(y // 12), x // 12 : -(x // 12)]
    body[:] = 40
    for _ in range(200):
        start = [rng.integers(0, max(1, n - n // 6)) for n in body.shape]
        body[tuple(slice(s, s + n // 6) for s, n in zip(start, body.shape, strict=True))] = rng.integers(-900, 900)
    return Volume(array, Grid(shape_zyx, np.diag([*spacing_xyz_mm, 1.0])), "ct", "torso")


def median_seconds(job: Callable[[], object], runs: int) -> float:
    """Median wall time of ``runs`` runs after one that is not counted."""
    job()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def embed(device: str) -> str:
    """Embed a 160 x 160 x 160 canonical volume."""
    session, volume = Session(device=device), torso((160, 160, 160))
    return f"embed 160x160x160 canonical voxels: {median_seconds(lambda: session.embed(volume), 5):.2f} s"


def click(device: str) -> str:
    """One landmark, there and back, against an embedded chest-sized scan."""
    session = Session(device=device)
    a, b = session.embed(torso((160, 140, 180))), session.embed(torso((150, 150, 180)))
    point = a.embedding.grid.corners().mean(0)[None]
    start = time.perf_counter()
    session.match(a, point, b)
    first = time.perf_counter() - start
    return f"first click of a pair: {first:.2f} s; one click: {1000 * median_seconds(lambda: session.match(a, point, b), 30):.1f} ms"


def batch(device: str) -> str:
    """100 landmarks, there and back."""
    session = Session(device=device)
    a, b = session.embed(torso((160, 140, 180))), session.embed(torso((150, 150, 180)))
    low, high = a.embedding.grid.corners().min(0), a.embedding.grid.corners().max(0)
    points = np.random.default_rng(0).uniform(low + 20, high - 20, (100, 3))
    return f"100 landmarks: {1000 * median_seconds(lambda: session.match(a, points, b), 5):.0f} ms"


def body(device: str) -> str:
    """Embed a total-body scan of 500 x 500 x 900 voxels of 1 x 1 x 2 mm: 1.8 m long."""
    session, volume = Session(device=device), torso((900, 500, 500), (1.0, 1.0, 2.0))
    start = time.perf_counter()
    session.embed(volume)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"total body 500x500x900 voxels: {time.perf_counter() - start:.0f} s, peak memory {peak:.2f} GiB"


def main() -> None:
    """Run one job in this process, or each in its own."""
    jobs = {"embed": embed, "click": click, "batch": batch, "body": body}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", nargs="?", choices=list(jobs), help="default: all")
    parser.add_argument("--device", default="cpu", help="cpu (with two threads), cuda, mps")
    args = parser.parse_args()
    if args.job:
        torch.set_num_threads(THREADS)
        print(jobs[args.job](args.device))
        if args.device.startswith("cuda"):
            print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
        return
    for name in jobs:
        subprocess.run([sys.executable, __file__, name, "--device", args.device], check=True)


if __name__ == "__main__":
    main()

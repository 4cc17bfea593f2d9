"""How bright the patient of an MR is: a statistic that a few hot slices, a coil, the crop and the
amount of air do not move.

Pure functions of canonical images ``(Z, Y, X)``, padding taken out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRIDE = 2
FLOOR_PERCENT = 1.0
TOP_PERCENT = 95.0  # of a slice's patient voxels: its bright tissue, not its vessels and spikes
HEADROOM = 1.15  # to the 99th percentile of the foreground, in the middle of ordinary scans
DARKEST = 0.5  # of the threshold between dark and bright: above noise, below muscle
FEWEST_VOXELS = 20  # of a slice, to count
BRIGHT = 1.2  # times the tops of three quarters of the slices: what is brighter counts as that
ROUNDS = 20
FAR = 3.0


def patient_limit(image: NDArray) -> float | None:
    """The intensity below which (nearly) all tissue of an MR lies; None where no patient is seen.

    In every slice the 95th percentile of its patient voxels, of those the median over the patient,
    of the three directions of slicing the lowest (a hot slice is in every slice of the other two),
    and some headroom above.
    """
    x = np.asarray(image[::STRIDE, ::STRIDE, ::STRIDE], dtype=np.float32)
    floor = float(np.percentile(x, FLOOR_PERCENT))
    x = np.minimum(x - floor, _plausible(x - floor))
    tissue = x > DARKEST * _threshold(x.ravel())
    tops = [top for axis in range(3) if (top := _middle_top(np.moveaxis(x, axis, 0), np.moveaxis(tissue, axis, 0))) is not None]
    return floor + HEADROOM * min(tops) if tops else None


def believable(image: NDArray, limit: float) -> float:
    """An upper limit that was found by percentiles, or what the patient reaches where it is above
    ``FAR`` times that and so was set by artefacts.

    Over the 116 training and development MR scans the limits of the bundled model's rule are 0.9 to
    2.0 times as high as what the patient reaches, those of the released models' up to 2.1 times
    (both beside an endorectal coil); with one slice in twenty ten times too bright both rules are 3
    to 10 times too high. So no ordinary scan is touched.
    """
    reached, floor = patient_limit(image), float(np.percentile(image, FLOOR_PERCENT))
    return limit if reached is None or limit - floor <= FAR * (reached - floor) else reached


def _plausible(x: NDArray) -> float:
    """A little more than what three quarters of the slices reach, in the direction of slicing with
    the fewest hot ones."""
    tops = (np.percentile(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1), 99.0, axis=1) for axis in range(3))
    return BRIGHT * min((float(np.percentile(t[t > 0], 75.0)) for t in tops if (t > 0).any()), default=np.inf)


def _middle_top(slices: NDArray, tissue: NDArray[np.bool_]) -> float | None:
    """The median of the slices' tops, each as heavy as its tissue is large."""
    sizes = tissue.reshape(len(tissue), -1).sum(axis=1)
    used = np.flatnonzero(sizes >= FEWEST_VOXELS)
    if not used.size:
        return None
    tops = np.array([np.percentile(slices[n][tissue[n]], TOP_PERCENT) for n in used])
    order = np.argsort(tops)
    heavier = np.cumsum(sizes[used][order])
    return float(tops[order][np.searchsorted(heavier, heavier[-1] / 2)])


def _threshold(values: NDArray) -> float:
    """Between dark and bright (Ridler and Calvard 1978); bright values count up to twice the bright
    median, so that hot ones do not pull it up."""
    threshold = float(values.mean())
    for _ in range(ROUNDS):
        bright = values[values > threshold]
        if not bright.size or bright.size == values.size:
            break
        middle = float(np.median(bright))
        moved = 0.5 * float(np.minimum(bright, 2 * middle).mean() + values[values <= threshold].mean())
        if abs(moved - threshold) < 1e-3 * abs(middle):
            break
        threshold = moved
    return threshold

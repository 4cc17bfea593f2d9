"""Landmarks of two scans and the map between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from positions import ball, carried, motion

BODY = np.array([p for p in np.random.default_rng(0).uniform(-80, 80, (500, 3)) if ball(p)])


def tre(transform: Callable[[np.ndarray], np.ndarray], truth: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(transform(BODY) - carried(truth, BODY), axis=1)))


TRUTH = motion((30, -50, 100), (300, -20, 40))

LANDMARKS = np.array([[0, 0, 0], [60, 0, 10], [0, 40, -20], [-30, 10, 70], [20, -35, 50], [-50, -20, -60.0]])

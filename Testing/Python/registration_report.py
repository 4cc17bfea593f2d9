"""What a worker reports of a registration."""

from __future__ import annotations

import requires

requires.needs_mrml()


REPORT = {
    "stage": "rigid",
    "source": "embeddings",
    "inliers": 40,
    "pairs": 50,
    "fre_mm": 2.0,
    "expected_tre_mm": 1.25,
    "folding": 0.0,
    "refined_mm": None,
    "seconds": 3.0,
    "note": "",
}

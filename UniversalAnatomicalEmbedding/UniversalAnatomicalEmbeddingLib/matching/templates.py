"""Several exemplars of one landmark searched as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .similarity import Query


def combine(queries: Sequence[Query]) -> Query:
    """Mean of the descriptors of several exemplars, row by row.

    Similarity is linear in the query, so searching with the mean descriptor is searching the mean of the exemplars' similarity maps.
    """
    return Query(torch.stack([q.fine for q in queries]).mean(0), torch.stack([q.coarse for q in queries]).mean(0))

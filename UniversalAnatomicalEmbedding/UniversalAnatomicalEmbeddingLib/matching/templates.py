"""Several exemplars of one landmark searched as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .searchable import Query


def combine(queries: Sequence[Query]) -> Query:
    """Mean of the descriptors of several exemplars, row by row.

    Similarity is linear in the query, so searching with the mean descriptor is searching the mean of the exemplars' similarity maps.
    """
    around = [q.around for q in queries if q.around is not None]
    fine, coarse = (torch.stack(rows).mean(0) for rows in ([q.fine for q in queries], [q.coarse for q in queries]))
    return Query(fine, coarse, torch.stack(around).mean(0) if around else None)

"""What the processes of a distributed run tell each other. In a single process each function is the identity."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> list[Tensor]:
    """``rows`` (N, ...) of every process in order of rank; N may differ.

    One's own rows keep their gradient, those of others have none. A loss over all rows that every process computes therefore has, summed over
    the processes, its full gradient; since gradients are averaged, multiply it by the number of processes.
    """
    if not is_distributed():
        return [rows]
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(processes())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = max(1, *(int(n) for n in counts))
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    found = [part[: int(n)] for part, n in zip(parts, counts, strict=True)]
    found[dist.get_rank()] = rows
    return found


def total(count: int, device: torch.device) -> int:
    """Sum of ``count`` over the processes."""
    if not is_distributed():
        return count
    number = torch.tensor([count], device=device)
    dist.all_reduce(number)
    return int(number)


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()

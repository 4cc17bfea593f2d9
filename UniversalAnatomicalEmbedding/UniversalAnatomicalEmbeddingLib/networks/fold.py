"""Batch norm folded into the convolutions before it: same maps, one pass over the activations less. Inference only."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy of ``network`` whose convolutions have taken over the batch norm registered right after them (statistics and affine part).

    The copy gives the same maps to rounding; the original stays as it is. Its state_dict differs (a conv bias in place of the norm), so
    load weights before folding and never save the copy as a checkpoint. Raises ValueError for a network in training mode.
    """
    if network.training:
        raise ValueError("found a network in training mode, whose batch norms are still moving: call network.eval() before folding")
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        for (_, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                _fold(conv, norm)
                setattr(parent, norm_name, nn.Identity())
    return folded


@torch.no_grad()
def _fold(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> None:
    """In place: a second copy of the weights would leave holes in the memory once it is let go, too small for a feature map."""
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    conv.weight.mul_(scale[:, None, None, None, None])
    conv.bias = nn.Parameter(((0 if conv.bias is None else conv.bias) - mean) * scale + norm.bias, requires_grad=False)

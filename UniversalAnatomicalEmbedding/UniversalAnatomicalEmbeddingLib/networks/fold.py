"""Batch norm folded into the convolutions before it: same maps, one pass over the activations less. Inference only."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from .resnet3d import ConvNorm

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy of ``network`` whose convolutions have taken over their batch norms (running statistics and affine part).

    The copy gives the same maps to rounding; the original stays as it is. Its state_dict differs (a conv bias in place of "bn"), so load
    weights before folding and never save the copy as a checkpoint. Raises ValueError for a network in training mode.
    """
    if network.training:
        raise ValueError("found a network in training mode, whose batch norms are still moving: call network.eval() before folding")
    folded = copy.deepcopy(network)
    for module in folded.modules():
        if isinstance(module, ConvNorm):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return folded

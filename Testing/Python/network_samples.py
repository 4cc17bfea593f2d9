"""Networks with random norms, and noise to put through them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Evaluation mode with random norms, so that no layer is close to the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var"):
            tensor.data.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith("running_mean"):
            tensor.data.normal_(0.0, 0.3, generator=generator)
        elif tensor.ndim == 1 and name.endswith("weight"):
            tensor.data.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.data.normal_(0.0, 0.3, generator=generator)
    return network.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))

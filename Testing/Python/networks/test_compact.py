"""The compact network sees what its kernels reach, and has no norm that looks at the image."""

from __future__ import annotations

import torch
from network_samples import noise
from torch import nn

from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder


def test_compact_does_not_know_what_lies_beyond_its_receptive_field(networks: dict[str, Embedder]) -> None:
    """146 voxels: changing the far end of a scan, or cutting it off, leaves every cell beyond as it was (no statistics over space)."""
    network, image, cut, field = networks["compact"], noise(16, 16, 256), 16, 146
    changed = image.clone()
    changed[..., :cut] = 5.0
    with torch.inference_mode():
        whole, other, cropped = (network.features(i) for i in (image, changed, image[..., cut:]))
    for key, stride in (("fine", network.fine_stride[2]), ("coarse", network.coarse_stride[2])):
        first, shift = -(-(cut + field) // stride), cut // stride
        torch.testing.assert_close(other[key][..., first:], whole[key][..., first:], rtol=0, atol=1e-5)
        torch.testing.assert_close(cropped[key][..., first - shift :], whole[key][..., first:], rtol=0, atol=1e-5)
        assert whole[key][..., first:].std() > 0.01
        assert (other[key][..., shift] - whole[key][..., shift]).abs().max() > 1e-2
        assert (cropped[key][..., 0] - whole[key][..., shift]).abs().max() > 1e-2


def test_compact_has_no_norm_that_would_look_at_the_image() -> None:
    """Batch norm has frozen statistics in evaluation mode; instance, group and response norms would see the field of view."""
    kinds = (nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LocalResponseNorm)
    with torch.device("meta"):
        assert [name for name, module in Compact().named_modules() if isinstance(module, kinds)] == []

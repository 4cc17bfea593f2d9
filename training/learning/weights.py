"""Where a training may start from: the weights of an earlier model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from UniversalAnatomicalEmbeddingLib.models import load_model
from UniversalAnatomicalEmbeddingLib.system import InputError

CHECKPOINTS = {".ckpt", ".pt", ".pth"}
MAY_BE_NEW = ("semantic_head.", "merge0.")


def load_initial(network: nn.Module, source: str | Path) -> list[str]:
    """Give ``network`` the weights of a catalogue model, a ``.safetensors`` file or a checkpoint of this training; returns the names that stay as they are.

    Only a semantic head and the blocks of the finest level may be missing in ``source``. InputError where anything else does not fit.
    """
    weights = initial_weights(source)
    expected = network.state_dict()
    new = [k for k in expected if k not in weights and k.startswith(MAY_BE_NEW)]
    wrong = [k for k in expected if k not in new and (k not in weights or weights[k].shape != expected[k].shape)]
    extra = [k for k in weights if k not in expected and not k.startswith(MAY_BE_NEW)]
    if wrong or extra:
        raise InputError(
            f"The weights of {source} do not fit this network: {len(wrong)} tensors are missing or of another shape, {len(extra)} have no place "
            f"(first: {', '.join((wrong + extra)[:3])}). Give the network the arguments that it was trained with."
        )
    network.load_state_dict({k: weights.get(k, v) for k, v in expected.items()})
    return new


def initial_weights(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a model by the names of its network. Nothing in a file is executed."""
    if Path(source).suffix not in CHECKPOINTS:
        return load_model(source).network.state_dict()
    state = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    return {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}

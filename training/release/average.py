"""The mean of the weights of models of one network, which often does better on new scans than either (model soups, Wortsman et al. 2022)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from UniversalAnatomicalEmbeddingLib.models import Model, load_model, save_model
from UniversalAnatomicalEmbeddingLib.system import InputError


def main() -> None:
    """``python -m training.average --models a.safetensors b.safetensors --shares 0.4 0.6 --out mean.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", required=True, help="catalogue ids or weights files; the card is that of the last")
    parser.add_argument("--shares", nargs="+", type=float, help="one number for each model; default: equal")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write (.safetensors)")
    args = parser.parse_args()
    models = [load_model(m) for m in args.models]
    save_model(average(models, args.shares or [1.0] * len(models)), args.out)
    print(f"{args.out}: the mean of {len(models)} models, without calibration; run training.calibrate")


def average(models: list[Model], shares: list[float]) -> Model:
    """The weighted mean, with the network and the card of the last model but not its calibration, which is of other weights.

    InputError for another number of shares than models, shares that add up to nothing, or networks that differ.
    """
    total = sum(shares)
    if len(shares) != len(models) or total <= 0:
        raise InputError(
            f"{len(shares)} shares for {len(models)} models, {total:g} together. Give each model one, and more than 0 together."
        )
    states = [m.network.state_dict() for m in models]
    for model, state in zip(models, states, strict=True):
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[-1].items()}:
            raise InputError(
                f"{model.card.id} and {models[-1].card.id} are of different networks; only weights of one network have a mean."
            )
    last = models[-1]
    last.network.load_state_dict({name: _mean([s[name] for s in states], [w / total for w in shares]) for name in states[-1]})
    return Model(last.network, replace(last.card, calibration=None))


def _mean(values: list[Tensor], shares: list[float]) -> Tensor:
    if not values[-1].is_floating_point():
        return values[-1]
    return torch.stack([share * value for value, share in zip(values, shares, strict=True)]).sum(0)

"""Made-up checkpoint files in the released layout, which the tests of importing and downloading share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
LAYOUTS = {"sam": "sam", "uae-s": "uaes", "uae-m": "uaem"}


def weights(family: str = "sam", seed: int = 0, full: bool = False) -> dict[str, Tensor]:
    """Weights under the released names; each one number seen everywhere, so that a file of them is small, or ``full`` of random ones.

    As in the released UAE-M, the biases of its semantic head are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in json.loads((DATA / f"ckpt_keys_{LAYOUTS[family]}.json").read_text()).items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(20_000)
            continue
        count = shape if full else [1] * len(shape)
        value = torch.rand(count, generator=generator) + 0.5
        if full and len(shape) > 1:
            value = (value - 1) * (24 / torch.tensor(shape[1:]).prod()) ** 0.5
        if family == "uae-m" and name.startswith("semantic_head.") and name.endswith(".bias"):
            value = torch.zeros(count)
        made[name] = value if full else value.expand(shape)
    return made


def checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """As the authors' training code writes it."""
    meta = {"mmcv_version": "1.4.7", "time": "Tue Nov 7", "epoch": 1, "iter": 20_000, "config": "model = dict(type='Sam')", "CLASSES": None}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.02, "params": [0]}]}
    return {"meta": meta, "state_dict": state, "optimizer": optimizer}


def save(content: Any, path: Path, **options: Any) -> Path:
    """Write with torch.save."""
    torch.save(content, path, **options)
    return path

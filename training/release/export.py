"""Turn a training checkpoint into a weights file with its model card, and enter it in the catalogue."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml

from UniversalAnatomicalEmbeddingLib.images import Intensity
from UniversalAnatomicalEmbeddingLib.models import Model, ModelCard, build_network, save_model
from UniversalAnatomicalEmbeddingLib.system import sha256, write_atomically


def main() -> None:
    """``python -m training.export --checkpoint last.ckpt --card card.yaml --out model.safetensors [--catalogue catalogue.json]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Lightning checkpoint; its averaged weights are taken")
    parser.add_argument("--card", type=Path, required=True, help="YAML with the fields of ModelCard")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write (.safetensors)")
    parser.add_argument("--catalogue", type=Path, help="catalogue.json beside --out in which the model becomes the default")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    values = yaml.safe_load(args.card.read_text(encoding="utf-8"))
    if "intensity" in values:
        values["intensity"] = Intensity(**values["intensity"])
    values["training"] = {**values.get("training", {}), "steps": int(checkpoint["global_step"])}
    model = trained_model(checkpoint["state_dict"], ModelCard(**values))
    save_model(model, args.out)
    if args.catalogue:
        register(model.card, args.out, args.catalogue)
    print(f"{args.out}: {model.card.id}, step {checkpoint['global_step']}, {args.out.stat().st_size / 2**20:.1f} MiB")


def trained_model(state: dict[str, torch.Tensor], card: ModelCard) -> Model:
    """The network of ``card`` with the weights of a Lightning ``state_dict`` (keys begin with "network.")."""
    network = build_network(card)
    network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    return Model(network.eval(), card)


def register(card: ModelCard, weights: Path, catalogue: Path) -> None:
    """Enter the weights file, which lies beside the catalogue, as the default model."""
    content = json.loads(catalogue.read_text(encoding="utf-8")) if catalogue.exists() else {"default": "", "models": []}
    others = [m for m in content["models"] if m["id"] != card.id]
    entry = {"id": card.id, "source": "bundled", "file": weights.name, "sha256": sha256(weights), "size": weights.stat().st_size}
    with write_atomically(catalogue) as staged:
        staged.write_text(json.dumps({"default": card.id, "models": [entry, *others]}, indent=1) + "\n", encoding="utf-8")

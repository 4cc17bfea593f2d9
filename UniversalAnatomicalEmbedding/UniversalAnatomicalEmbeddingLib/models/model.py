"""The pretrained models: what each is, and how to build it from its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..images.preprocess import INPUT_VERSION, PREPROCESS_VERSION, Intensity, Pipeline
from ..networks.compact import Compact
from ..networks.embedder import Embedder
from ..networks.resnet_embedder import ResNetEmbedder
from ..system.errors import InputError
from ..system.files import sha256, sha256_of, write_atomically
from .catalogue import catalogue

FAMILIES: dict[str, type[Embedder]] = {"compact": Compact, "resnet3d18-fpn": ResNetEmbedder}


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to use a model honestly; stored with its weights.

    ``network`` are the arguments of its family's class, ``intensity`` and ``pipeline`` how its input is made, ``calibration`` the confidence
    model fitted on training data (None: not calibrated), ``training`` and ``accuracy`` free facts for people.
    """

    id: str
    title: str
    family: str
    modality: tuple[str, ...]
    regions: tuple[str, ...]
    licence: str
    citation: str
    network: dict[str, Any] = field(default_factory=dict)
    intensity: Intensity = Intensity()
    pipeline: Pipeline = "standard"
    spacing_mm: float = 2.0
    preprocess_version: int = PREPROCESS_VERSION
    calibration: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_json(text: str) -> ModelCard:
        """Parse a card; unknown or missing fields fail."""
        values = json.loads(text)
        old = {"mr_rule": "percentiles"}  # of cards from before there was a choice
        values["intensity"] = Intensity(**{**old, **{k: _tuples(v) for k, v in values["intensity"].items()}})
        return ModelCard(**{**values, "modality": tuple(values["modality"]), "regions": tuple(values["regions"])})

    def to_json(self) -> str:
        """The card as one JSON object."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready for use (evaluation mode) and its card."""

    network: Embedder
    card: ModelCard

    def fingerprint(self) -> str:
        """Hash of the weights: two models with the same card but other weights differ."""
        weights = sorted(self.network.state_dict().items())
        return sha256_of(part for name, value in weights for part in (name, value.detach().cpu().numpy()))


def load_model(id_or_path: str | Path | None = None) -> Model:
    """The model of a catalogue id or a ``.safetensors`` file; None: the default. Nothing in a weights file is ever executed."""
    path = _weights_path(id_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - safe_open is not a mapping
    except Exception as error:
        raise InputError(
            f"{path} is not a readable .safetensors weights file ({error}). Give a catalogue id or a file made by training."
        ) from error
    if "card" not in metadata:
        raise InputError(
            f"{path} holds weights but no model card, so it is not known how to preprocess for it. Export it with training.export."
        )
    try:
        card = ModelCard.from_json(metadata["card"])
        with torch.device("meta"):  # no time is lost on random weights
            network = build_network(card)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"The model card in {path} cannot be used ({error}). Export the model again with this version.") from error
    if not INPUT_VERSION <= card.preprocess_version <= PREPROCESS_VERSION:
        remedy = (
            "Update the package" if card.preprocess_version > PREPROCESS_VERSION else "Use the package it was made with, or train it again"
        )
        raise InputError(
            f"{path} was trained for preprocessing version {card.preprocess_version}; this package knows {INPUT_VERSION} to "
            f"{PREPROCESS_VERSION}. {remedy}."
        )
    _check_shapes(path, network, weights)
    expected = network.state_dict()
    network.load_state_dict({k: v.to(expected[k].dtype) for k, v in weights.items()}, assign=True)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return Model(network.eval().requires_grad_(False), card)


def build_network(card: ModelCard) -> Embedder:
    """An untrained network of the card's family and arguments."""
    if card.family not in FAMILIES:
        raise InputError(f"Model {card.id} is of family '{card.family}'; this version knows {', '.join(FAMILIES)}. Update the package.")
    arguments = {k: _tuples(v) for k, v in card.network.items()}
    return FAMILIES[card.family](**arguments).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def save_model(model: Model, path: Path) -> None:
    """Write weights (kernels in float16, the few vectors in their own type) and card to one ``.safetensors`` file, atomically."""
    state = model.network.state_dict()
    save_weights({k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in state.items()}, model.card, path)


def save_weights(weights: dict[str, torch.Tensor], card: ModelCard, path: Path) -> None:
    """Write weights as they are, and their card, to one ``.safetensors`` file, atomically."""
    with write_atomically(path) as staged:
        save_file(weights, staged, metadata={"card": card.to_json()})


def _weights_path(id_or_path: str | Path | None) -> Path:
    if id_or_path is not None and Path(id_or_path).is_file():
        return Path(id_or_path)
    entries = catalogue()
    name = str(id_or_path) if id_or_path is not None else next(iter(entries))
    if name in entries:
        entry = entries[name]
        path, remedy = entry.path, "Reinstall the package" if entry.source == "bundled" else "Import or fetch the model again"
        if not path.is_file():
            raise InputError(f"The weights of {name} are missing: {path} is not there. {remedy}.")
        found = sha256(path)
        if found != entry.sha256:
            raise InputError(f"The weights of {name} are damaged: {path} has SHA-256 {found}, expected {entry.sha256}. {remedy}.")
        return path
    raise InputError(
        f"No model '{name}': it is neither a file nor one of {', '.join(entries)}. Others can be got with 'uae models fetch' and 'uae models import'."
    )


def _check_shapes(path: Path, network: Embedder, weights: dict[str, torch.Tensor]) -> None:
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in weights.items()}
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if wrong:
        report = "; ".join(f"{k}: found {found.get(k, 'nothing')}, expected {expected.get(k, 'nothing')}" for k in wrong[:4])
        raise InputError(f"{path} does not fit its own model card in {len(wrong)} tensors ({report}).")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value

"""Lightning module of SAM, UAE-S and UAE-M pretraining: one module, three configurations.

SAM (Yan et al., "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings") learns from two views of one patient. UAE-S (Bai et al., "UAE:
Universal Anatomical Embedding on Multi-modality Medical Images") adds a network with a semantic head and scans with labels; UAE-M adds pairs of
scans that an earlier model has registered. Which of it happens depends on the network and the data, not on the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from zlib import crc32

import lightning as L
import torch
from torch import Generator, Tensor

from UniversalAnatomicalEmbeddingLib.networks import Embedder

from ..batches.augment import ViewParameters, cut_view
from ..batches.places import Example, PlaceOptions, Places
from ..batches.sampling import sample_descriptors
from ..scans.scan import Scan, place
from .losses import (
    Bank,
    ContrastOptions,
    PairDescriptors,
    SemanticOptions,
    offered,
    sam_losses,
    semantic_loss,
)
from .parallel import gathered, processes, total
from .weights import load_initial

LEAST_POINTS = 16


class SelfSupervisedModule(L.LightningModule):
    """Coarse and fine InfoNCE between corresponding points of two views; with a semantic head, a prototypical loss of labelled points too.

    ``points`` correspondences, ``cells`` random negatives (None: every cell) and ``near`` ones within some ``near_reach`` voxels of the points are
    compared per view. Common points of two patients may be wrong by ``slack_mm``, and two scans of one frame may be ``frame_slack_mm`` apart (patients
    move): the partner is sought at ``around`` places within that. Training starts from random weights, or from the model ``initial`` (catalogue id,
    weights file or checkpoint). The learning rate warms up over ``warmup`` steps,
    stays, and falls linearly to zero over the last ``decay`` steps of ``trainer.max_steps``: a run is prolonged by resuming it with more steps. From
    step ``freeze_norm`` on, batch norm uses its frozen statistics, as it does for inference. Images, -1 to 1, reach the network scaled to
    ``input_range``.
    """

    def __init__(
        self,
        network: Embedder,
        contrast: ContrastOptions,
        semantic: SemanticOptions | None = None,
        initial: str | None = None,
        points: int = 640,
        cells: int | None = 2000,
        near: int = 3000,
        near_reach: float = 4.0,
        slack_mm: float = 10.0,
        frame_slack_mm: float = 4.0,
        around: int = 24,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.02,
        warmup: int = 60,
        decay: int = 300,
        freeze_norm: int | None = 500,
        input_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network", "contrast", "semantic"])
        self.network = network.to(memory_format=torch.channels_last_3d)
        self.contrast, self.semantic = contrast, semantic or SemanticOptions()
        self.scans: list[Scan] = []
        if initial:
            load_initial(self.network, Path(initial) if Path(initial).exists() else initial)

    def place_options(self) -> PlaceOptions:
        """How many places the loader is to choose of each pair."""
        h = self.hparams
        counts = h.points, h.cells, h.near, h.near_reach, h.slack_mm, h.frame_slack_mm, h.around
        return PlaceOptions(*counts, self.semantic.per_structure, self.network.fine_stride)

    def on_fit_start(self) -> None:
        self.scans = place(self.trainer.datamodule.scans, self.device)

    def on_train_batch_start(self, batch: list[Example], batch_idx: int) -> None:
        if self.hparams.freeze_norm is not None and self.global_step >= self.hparams.freeze_norm:
            for layer in self.network.modules():
                if isinstance(layer, torch.nn.BatchNorm3d):
                    layer.eval()

    def training_step(self, batch: list[Example], batch_idx: int) -> Tensor:
        described = [self.describe(e, self.scans[e.pair.fixed_scan], self.scans[e.pair.moving_scan]) for e in batch]
        with exact(self.device):
            terms = self.contrast_terms(described)
            semantic = torch.cat([d.semantic for d in described])
            if hasattr(self.network, "semantic_head"):
                terms["semantic"] = self.semantic_term(semantic, torch.cat([d.truth for d in described]))
            self.log_dict({f"loss_{k}": v.detach() for k, v in terms.items()}, prog_bar=True)
            self.log("points", sum(float(d.matched) for d in described) / len(described))
            weights = self.loss_weights(self.global_step)
            untouched = sum(p.sum() for p in self.network.parameters())  # every parameter takes part in every step, as DDP demands
            return sum((weights[k] * v for k, v in terms.items()), 0 * untouched)

    def contrast_terms(self, described: list[PairDescriptors]) -> dict[str, Tensor]:
        """Mean fine and coarse loss over the pairs of all processes, scaled so that averaging the processes' gradients gives its gradient.

        Pairs with too few common points only offer negatives.
        """
        usable = [d for d in described if d.matched >= LEAST_POINTS]
        own = offered(described, self.contrast)
        bank = Bank(torch.cat(gathered(own.rows)), torch.cat(gathered(own.frames)))
        number = total(len(usable), self.device)
        if not usable:
            return {}
        share = len(usable) * processes() / number
        return {k: share * v for k, v in sam_losses(usable, self.contrast, bank).items()}

    def semantic_term(self, descriptors: Tensor, truth: Tensor) -> Tensor:
        """Semantic loss over the labelled points of all processes, scaled likewise."""
        everywhere = torch.cat(gathered(descriptors)), torch.cat(gathered(truth))
        return processes() * semantic_loss(*everywhere, self.semantic.temperature)

    def loss_weights(self, step: int) -> dict[str, float]:
        """Weights of the losses at a step: all together, or the semantic one and the others in turn, drawn alike in all processes."""
        turn = float(torch.rand(1, generator=Generator().manual_seed(step))) < self.semantic.alternate_p
        sam = 0.0 if turn else 1.0
        semantic = self.semantic.weight if turn or self.semantic.alternate_p == 0 else 0.0
        return {"fine": sam, "coarse": sam, "semantic": semantic}

    def describe(self, example: Example, fixed: Scan, moving: Scan) -> PairDescriptors:
        """Cut both views of a pair, embed them, and sample descriptors at the places chosen for it."""
        low, high = self.hparams.input_range
        with exact(self.device):
            images = torch.cat([self.cut(fixed, example.pair.fixed), self.cut(moving, example.pair.moving)])
        maps = self.network.features(low + (high - low) * (images + 1) / 2)
        with exact(self.device):
            fine, coarse, around, semantic = self.sample(maps, example.places)
        places, frames = example.places, [crc32(s.frame.encode()) for s in (fixed, moving)]  # numbers that are the same in every process
        patient, truth = places.patient_mm.to(self.device), places.truth.to(self.device)
        return PairDescriptors(
            fine, coarse, patient, places.matched, places.slack_mm, (frames[0], frames[1]), example.pair.seed, around, semantic, truth
        )

    def cut(self, scan: Scan, view: ViewParameters) -> Tensor:
        """One view, on the device of the network."""
        return cut_view(scan.image, scan.mm_to_index.to(self.device), view.to(self.device))

    def sample(self, maps: dict[str, Tensor], places: Places) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Descriptors of one pair from its maps ``(2, C, ...)``: fine and coarse (2, P, C), fine around the matched ones (2, matched, K, C), semantic
        (N, C; of length 0 without a semantic head)."""
        stride, index, around = self.network.fine_stride, places.index.to(self.device), places.around.to(self.device)
        fine = sample_descriptors(maps["fine"], stride, torch.cat([index, around.flatten(1, 2)], 1))
        fine, near = fine.split([index.shape[1], around.shape[1] * around.shape[2]], 1)
        coarse = sample_descriptors(maps["coarse"], self.network.coarse_stride, index)
        semantic = fine.new_empty(0, 0)
        if "semantic" in maps:
            sides = zip(maps["semantic"].split(1), places.labelled, strict=True)
            semantic = torch.cat([sample_descriptors(own, stride, at[None].to(self.device))[0] for own, at in sides])
        return fine, coarse, near.unflatten(1, around.shape[1:3]), semantic

    def configure_optimizers(self):
        h = self.hparams
        if h.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.network.parameters(), lr=h.learning_rate, weight_decay=h.weight_decay, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(self.network.parameters(), lr=h.learning_rate, weight_decay=h.weight_decay, betas=(0.9, 0.98))

        def factor(step: int) -> float:
            left = (self.trainer.max_steps - step) / h.decay if h.decay else 1.0
            return max(0.0, min(1.0, (step + 1) / h.warmup, left))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"},
        }


def exact(device: torch.device) -> torch.autocast:
    """Full precision inside: bfloat16 positions would be off by millimetres, and bfloat16 cosines are too rough for a temperature of 0.1."""
    return torch.autocast(device.type, enabled=False)

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

from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder

from .augment import ViewParameters, cut_view, to_patient
from .data import PairParameters
from .losses import Bank, ContrastOptions, PairDescriptors, SemanticOptions, offered, sam_losses, semantic_loss
from .parallel import gathered, processes, total
from .sampling import (
    all_cells,
    cells_near,
    corresponding_common,
    corresponding_points,
    labelled_cells,
    random_cells,
    sample_descriptors,
    scattered,
)
from .scan import Scan, place
from .weights import load_initial

LEAST_POINTS = 16
Side = tuple[Scan, ViewParameters]


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
        if initial:
            load_initial(self.network, Path(initial) if Path(initial).exists() else initial)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule
        data.scans = place(data.scans, self.device)

    def on_train_batch_start(self, batch: list[PairParameters], batch_idx: int) -> None:
        if self.hparams.freeze_norm is not None and self.global_step >= self.hparams.freeze_norm:
            for layer in self.network.modules():
                if isinstance(layer, torch.nn.BatchNorm3d):
                    layer.eval()

    def training_step(self, batch: list[PairParameters], batch_idx: int) -> Tensor:
        scans, common = self.trainer.datamodule.scans, self.trainer.datamodule.common
        described = [self.describe(p, scans[p.fixed_scan], scans[p.moving_scan], common.get((p.fixed_scan, p.moving_scan))) for p in batch]
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

    def describe(self, pair: PairParameters, fixed_scan: Scan, moving_scan: Scan, common: Tensor | None = None) -> PairDescriptors:
        """Cut both views, embed them, and sample descriptors at corresponding points, at other cells and at labelled ones.

        ``common`` (N, 6): the common points of the scans, if they are of two patients.
        """
        sides = [
            (fixed_scan.geometry_to(self.device), pair.fixed.to(self.device)),
            (moving_scan.geometry_to(self.device), pair.moving.to(self.device)),
        ]
        low, high = self.hparams.input_range
        with exact(self.device):
            images = torch.cat([cut_view(scan.image, scan.mm_to_index, view) for scan, view in sides])
        maps = self.network.features(low + (high - low) * (images + 1) / 2)
        with exact(self.device):
            return self.sample(maps, sides, pair, common)

    def sample(self, maps: dict[str, Tensor], sides: list[Side], pair: PairParameters, common: Tensor | None) -> PairDescriptors:
        """The descriptors of one pair from its maps ``(2, C, ...)``."""
        h, (fixed, moving) = self.hparams, (scan for scan, _ in sides)
        stride, g = self.network.fine_stride, Generator().manual_seed(pair.seed)
        between = fixed.frame != moving.frame
        shown = corresponding_common(*sides, common, h.points, g) if between else corresponding_points(*sides, h.points, g)
        index = []
        for own, (_, view) in zip((shown.fixed_index, shown.moving_index), sides, strict=True):
            cells = _shuffled(all_cells(view, stride), g) if h.cells is None else random_cells(view, stride, h.cells, g)
            index.append(torch.cat([own, cells, cells_near(own, view, h.near, h.near_reach, g)]))
        rows = min(len(i) for i in index)
        heads = {
            head: torch.stack([sample_descriptors(maps[head][s : s + 1], size, index[s][:rows]) for s in (0, 1)])
            for head, size in (("fine", stride), ("coarse", self.network.coarse_stride))
        }
        patient = torch.stack([to_patient(index[s][:rows], sides[s][1]) for s in (0, 1)])
        registered = h.frame_slack_mm + fixed.slack_mm + moving.slack_mm if pair.fixed_scan != pair.moving_scan else 0.0
        slack = h.slack_mm if between else registered
        around = torch.empty(2, len(shown), 0, 0, device=self.device)
        if slack:
            near = [scattered(own, sides[s][1], h.around, slack, g) for s, own in enumerate((shown.fixed_index, shown.moving_index))]
            near = [sample_descriptors(maps["fine"][s : s + 1], stride, near[s]) for s in (0, 1)]
            around = torch.stack(near).unflatten(1, (len(shown), h.around))
        semantic, truth = self.labelled(maps, sides, g)
        frames = crc32(fixed.frame.encode()), crc32(moving.frame.encode())  # numbers that are the same in every process
        return PairDescriptors(heads["fine"], heads["coarse"], patient, len(shown), slack, frames, pair.seed, around, semantic, truth)

    def labelled(self, maps: dict[str, Tensor], sides: list[Side], g: Generator) -> tuple[Tensor, Tensor]:
        """Semantic descriptors (N, C) of labelled cells of both views, and what they are (N, ids + 1); none without a semantic head."""
        table = self.trainer.datamodule.table if "semantic" in maps else None
        width = 0 if table is None else len(table) + 1
        descriptors = [torch.empty(0, 0 if table is None else maps["semantic"].shape[1], device=self.device)]
        truth = [torch.empty(0, width, dtype=torch.int8, device=self.device)]
        for s, (scan, view) in enumerate(sides):
            if table is not None and scan.labels is not None:
                index, ids = labelled_cells(scan, view, self.network.fine_stride, self.semantic.per_structure, g)
                known = scan.known.to(self.device)
                if view.mirrored:
                    swap = table.mirrored.long().to(self.device)
                    ids, known = swap[ids], known[swap]
                descriptors.append(sample_descriptors(maps["semantic"][s : s + 1], self.network.fine_stride, index))
                truth.append(table.truth(ids, known))
        return torch.cat(descriptors), torch.cat(truth)

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


def _shuffled(rows: Tensor, g: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=g).to(rows.device)]


def exact(device: torch.device) -> torch.autocast:
    """Full precision inside: bfloat16 positions would be off by millimetres, and bfloat16 cosines are too rough for a temperature of 0.1."""
    return torch.autocast(device.type, enabled=False)

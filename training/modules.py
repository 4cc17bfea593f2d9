"""Lightning module of SAM pretraining (Yan et al., "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings")."""

from __future__ import annotations

import lightning as L
import torch
from torch import Generator, Tensor

from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder

from .augment import cut_view, to_patient
from .data import PairParameters, Scan
from .losses import ContrastOptions, PairDescriptors, sam_losses
from .sampling import cells_near, corresponding_anchors, corresponding_points, random_cells, sample_descriptors


class SelfSupervisedModule(L.LightningModule):
    """Coarse and fine InfoNCE between corresponding points of two views of one patient.

    ``points`` correspondences, ``cells`` random negatives and ``near`` ones within some ``near_reach`` voxels of the points are compared per
    view. Anchors of two patients may be wrong by ``slack_mm``. The learning rate warms up over ``warmup`` steps, stays, and falls linearly to
    zero over the last ``decay`` steps of ``trainer.max_steps``: a run is prolonged by resuming it with more steps. From step ``freeze_norm`` on,
    batch norm uses its frozen statistics, as it does for inference.
    """

    def __init__(
        self,
        network: Embedder,
        contrast: ContrastOptions,
        points: int = 640,
        cells: int = 2000,
        near: int = 3000,
        near_reach: float = 4.0,
        slack_mm: float = 12.0,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.02,
        warmup: int = 60,
        decay: int = 300,
        freeze_norm: int = 500,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network", "contrast"])
        self.network = network.to(memory_format=torch.channels_last_3d)
        self.contrast = contrast

    def on_train_batch_start(self, batch: list[PairParameters], batch_idx: int) -> None:
        if self.global_step >= self.hparams.freeze_norm:
            for layer in self.network.modules():
                if isinstance(layer, torch.nn.BatchNorm3d):
                    layer.eval()

    def training_step(self, batch: list[PairParameters], batch_idx: int) -> Tensor:
        scans = self.trainer.datamodule.scans
        described = [self.describe(p, scans[p.fixed_scan], scans[p.moving_scan]) for p in batch]
        usable = [d for d in described if d.matched >= 16]
        if not usable:
            return 0 * sum(p.sum() for p in self.network.parameters())
        generator = Generator().manual_seed(batch[0].seed)
        losses = sam_losses(usable, self.contrast, generator)
        self.log_dict({f"loss_{k}": v for k, v in losses.items()}, prog_bar=True)
        self.log("points", sum(float(d.matched) for d in usable) / len(usable))
        return losses["fine"] + losses["coarse"]

    def describe(self, pair: PairParameters, fixed_scan: Scan, moving_scan: Scan) -> PairDescriptors:
        """Cut both views, embed them, and sample descriptors at corresponding points and at random cells."""
        g = Generator().manual_seed(pair.seed)
        sides = [(fixed_scan.to(self.device), pair.fixed.to(self.device)), (moving_scan.to(self.device), pair.moving.to(self.device))]
        images = torch.cat([cut_view(scan.image, scan.mm_to_index, view) for scan, view in sides])
        maps = self.network.features(images)
        h = self.hparams
        between = fixed_scan.frame != moving_scan.frame
        at = (corresponding_anchors if between else corresponding_points)(sides[0], sides[1], h.points, g)
        index = [
            torch.cat([own, random_cells(view, self.network.fine_stride, h.cells, g), cells_near(own, view, h.near, h.near_reach, g)])
            for own, (_, view) in zip((at.fixed_index, at.moving_index), sides, strict=True)
        ]
        heads = {
            head: torch.stack([sample_descriptors(maps[head][s : s + 1], stride, index[s]) for s in (0, 1)])
            for head, stride in (("fine", self.network.fine_stride), ("coarse", self.network.coarse_stride))
        }
        patient = torch.stack([to_patient(index[s], sides[s][1]) for s in (0, 1)])
        return PairDescriptors(heads["fine"], heads["coarse"], patient, matched=len(at), slack_mm=h.slack_mm if between else 0.0)

    def configure_optimizers(self):
        h = self.hparams
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=h.learning_rate, weight_decay=h.weight_decay, betas=(0.9, 0.98))

        def factor(step: int) -> float:
            return max(0.0, min(1.0, (step + 1) / h.warmup, (self.trainer.max_steps - step) / h.decay))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"},
        }

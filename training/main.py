"""Pretraining from the command line: ``python -m training.main fit --config training/configs/compact_sam.yaml``."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from .batches.data import PairDataModule
from .learning.modules import SelfSupervisedModule


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the Lightning command line; every option of the YAML file can be given as a flag."""
    return LightningCLI(SelfSupervisedModule, PairDataModule, save_config_kwargs={"overwrite": True}, args=args)


if __name__ == "__main__":
    main()

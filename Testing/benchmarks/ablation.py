"""What each part of matching contributes: ``python Testing/benchmarks/ablation.py PAIRS.json [PAIRS.json ...] [--model ID] [--device auto]``.

One model, embedded once. A head that takes no part is set to zero in every scan, for the anchors as for the matches. Prints, for every list of pairs,
the median error, the 95th percentile and the share within 10 mm of all present landmarks, whatever the verdict.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from UniversalAnatomicalEmbeddingLib.embedding import Embedding
from UniversalAnatomicalEmbeddingLib.matching import Searchable
from UniversalAnatomicalEmbeddingLib.models import Model
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.report import evaluate, read_pairs
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system import silent

PLAIN, GUIDED, FIXED = MatchOptions(exact=True), MatchOptions(), MatchOptions(method="fixed-point")


class Ablated(Session):
    """A session whose scans keep some of the heads only, each scan embedded once for all of them."""

    heads: Sequence[str] = ()

    def __init__(self, model: Model | str | None, device: str) -> None:
        super().__init__(model, device)
        self.whole: dict[tuple[str, bytes], Embedding] = {}

    def embed(self, volume, progress=silent, cancel=None) -> Searchable:
        key = volume.name, volume.grid.affine.tobytes()
        if key not in self.whole:
            self.whole[key] = super().embed(volume, progress, cancel).embedding
        return Searchable(with_heads(self.whole[key], self.heads), self.device)


def with_heads(embedding: Embedding, heads: Sequence[str]) -> Embedding:
    """The embedding with the heads that are not named set to zero."""
    fine, width = np.array(embedding.fine), embedding.fine.shape[3] // (embedding.heads - 1)
    for number, head in enumerate(("fine", "semantic")[: embedding.heads - 1]):
        if head not in heads:
            fine[..., number * width : (number + 1) * width] = 0
    return replace(embedding, fine=fine, coarse=embedding.coarse if "coarse" in heads else np.zeros_like(embedding.coarse))


def main() -> None:
    """Print one table for each list of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    for path in args.pairs:
        session = Ablated(args.model, args.device)
        heads = ["fine", "coarse", "semantic"][: session.model.network.heads]
        cases = [("all heads, anchors", heads, GUIDED), ("all heads, whole scan", heads, PLAIN), ("all heads, fixed points", heads, FIXED)]
        cases += [(f"without {h}", [k for k in heads if k != h], GUIDED) for h in heads]
        cases += [(f"{h} only, whole scan", [h], PLAIN) for h in heads]
        print(path.name)
        for title, kept, options in cases:
            session.heads = kept
            outcomes = evaluate(read_pairs(path), session, options).outcomes
            errors = np.array([o.error_mm for o in outcomes if o.truth is not None])
            figures = f"median {np.median(errors):5.1f} mm, p95 {np.percentile(errors, 95):5.1f} mm, {100 * np.mean(errors <= 10):3.0f} %"
            print(f"  {title:26s} n {len(errors):4d}  {figures} within 10 mm", flush=True)


if __name__ == "__main__":
    main()

"""The one entry to every job: load a model, embed scans once, match points between them, register them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .embedding.cache import Cache, cache_key
from .embedding.embedding import Embedding, embed_volume
from .images.grid import Grid
from .images.modality import identify
from .images.volume import Volume, from_array, require_3d
from .matching import Calibration, Match, Searchable, match_points
from .matching.guide import guide_between
from .models.model import Model, ModelCard, load_model
from .networks.fold import fold_batch_norm
from .options import MatchOptions, RegisterOptions
from .registration import Registration, Scan, register_landmarks, register_scans
from .system.errors import InputError
from .system.progress import Progress, check, part, silent


class Session:
    """A model on a device, and an optional disk cache.

    ``model``: a catalogue id, a weights file, a :class:`Model`, or None for the default. ``device``: "auto", "cpu", "cuda", "cuda:1", "mps".
    ``compat``: embed as the published SAM and UAE code does, flaws included (:data:`.preprocess.Pipeline`); match with
    ``MatchOptions(compat=True)`` then. Raises :class:`InputError` for a model that was not published so.
    """

    def __init__(
        self, model: str | Path | Model | None = None, device: str = "auto", cache: Cache | None = None, compat: bool = False
    ) -> None:
        loaded = model if isinstance(model, Model) else load_model(model)
        if compat:
            loaded = Model(loaded.network, published(loaded.card))
        self.device = choose_device(device)
        self.model = Model(fold_batch_norm(loaded.network).to(self.device), loaded.card)
        self.cache = cache
        self.fingerprint = loaded.fingerprint() if cache else ""
        self.calibration = Calibration.from_card(loaded.card.calibration)

    def embed(self, volume: Volume, progress: Progress = silent, cancel: Event | None = None) -> Searchable:
        """Embed a scan as :func:`.modality.identify` takes it, or take its embedding from the cache.

        Raises :class:`InputError` for a scan that this model cannot take, :class:`Cancelled` when ``cancel`` is set meanwhile.
        """
        return Searchable(self.embed_stored(volume, progress, cancel)[1], self.device)

    def embed_stored(self, volume: Volume, progress: Progress = silent, cancel: Event | None = None) -> tuple[str, Embedding]:
        """As :meth:`embed`, for a caller that will search elsewhere: the key in the cache ("" without one), and the embedding."""
        cleaned = from_array(volume.array, volume.grid.affine, volume.modality, volume.name)
        volume = identify(require_3d(replace(volume, array=cleaned.array))).volume
        card = self.model.card
        if volume.modality not in card.modality:
            raise InputError(
                f"{volume.name} is {str(volume.modality).upper()}, but model {card.id} is for {', '.join(card.modality).upper()}. Choose another model."
            )
        key = cache_key(volume, card, self.fingerprint) if self.cache else ""
        embedding = self.cache.load(key, volume.name) if self.cache else None
        if embedding is None:
            embedding = embed_volume(volume, self.model, self.device, progress, cancel)
            if self.cache:
                self.cache.store(key, embedding)
        progress(1.0, "ready")
        return key, embedding

    def match(self, template: Searchable, points_lps: ArrayLike, target: Searchable, options: MatchOptions | None = None) -> list[Match]:
        """Find points (N, 3) LPS mm of ``template`` in ``target``."""
        return self.match_exemplars([(template, points_lps)], target, options)

    def match_exemplars(
        self, exemplars: Sequence[tuple[Searchable, ArrayLike]], target: Searchable, options: MatchOptions | None = None
    ) -> list[Match]:
        """As :meth:`match`, with the same N landmarks shown in several template scans."""
        return match_points(list(exemplars), target, options, self.calibration)

    def warm(self, template: Searchable, target: Searchable) -> None:
        """Find the anchors of a pair of scans now; the first match would do it otherwise."""
        guide_between(template, target)

    def similarity(self, template: Searchable, point_lps: ArrayLike, target: Searchable) -> tuple[NDArray[np.float32], Grid]:
        """How similar every cell of ``target`` is to a point (3,) LPS mm of ``template``: fused cosine (Z, Y, X), and the grid of the cells.

        Cells that are not searched are 0.
        """
        scores = target.full_scores(template.query(np.asarray(point_lps, dtype=np.float64).reshape(1, 3)))[0]
        inside = target.searched.reshape(scores.shape)
        return scores.where(inside, scores.new_zeros(())).float().cpu().numpy(), target.embedding.fine_grid

    def register(
        self,
        fixed: Volume,
        moving: Volume,
        options: RegisterOptions | None = None,
        progress: Progress = silent,
        cancel: Event | None = None,
        landmarks: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Registration:
        """Register ``moving`` to ``fixed``; the result's transform takes fixed points to moving points, LPS mm.

        ``landmarks``: pairs (N, 3), (N, 3) LPS mm, fixed and moving; then they alone decide and nothing is embedded. Raises
        :class:`InputError` (:class:`NoCommonAnatomy` where the scans share too little), :class:`Cancelled` when ``cancel`` is set meanwhile.
        """
        fixed, moving = (identify(require_3d(v)).volume for v in (fixed, moving))
        if landmarks is not None:
            return register_landmarks(*landmarks, options, fixed, moving, progress, cancel)
        check(cancel)
        fixed_scan = Scan(fixed, self.embed(fixed, part(progress, 0.0, 0.25), cancel))
        moving_scan = Scan(moving, self.embed(moving, part(progress, 0.25, 0.5), cancel))
        return register_scans(fixed_scan, moving_scan, self._embed_unstored, options, part(progress, 0.5, 1.0), cancel)

    def _embed_unstored(self, volume: Volume) -> Searchable:
        """Embed an intermediate image; it is not worth a place in the cache."""
        return Searchable(embed_volume(volume, self.model, self.device), self.device)


def published(card: ModelCard) -> ModelCard:
    """The card of a released SAM or UAE model with its input made to the letter of the published code."""
    if card.pipeline == "standard":
        raise InputError(
            f"Model {card.id} is not one of the released SAM and UAE models, so there is no published way to be compatible with. "
            "Leave out --compat (compat=True), or choose one of those."
        )
    return replace(card, pipeline="published", intensity=replace(card.intensity, mr_whole=True))


def choose_device(name: str) -> str:
    """Resolve "auto" to the best device there is, and check that any other is there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, number = name.partition(":")
    wellformed = re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is not None
    if not (wellformed and there[kind]) or (number and int(number) >= torch.cuda.device_count()):
        raise InputError(f"Device '{name}' is not available here; use auto or {', '.join(k for k, v in there.items() if v)}.")
    return name

"""Label maps of different sources under one table of names: what a source does not label is unknown there, never background."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from UniversalAnatomicalEmbeddingLib.images import Grid, read_volume
from UniversalAnatomicalEmbeddingLib.system import InputError, sha256_of

from .tissue import LABELS

TABLE = Path(__file__).with_name("labels.csv")
UNSURE = -1
SIDES = {"l": "left", "lt": "left", "left": "left", "r": "right", "rt": "right", "right": "right"}
BACKGROUND = {"background", "unlabeled", "unlabelled", "clear_label"}

IdArray = NDArray[np.int16]


@dataclass(frozen=True)
class Structure:
    """A row of the table: a structure, the larger one it is part of (or ""), whether its own parts cover it whole, and its other names."""

    name: str
    part_of: str = ""
    covered: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelTable:
    """The structures that training knows, with ids 1, 2, .. in their order. Id 0: no structure that the source labels; ``UNSURE``: could be anything."""

    structures: tuple[Structure, ...]

    @classmethod
    def read(cls, path: Path = TABLE) -> LabelTable:
        """A table from a CSV file with the columns ``name``, ``part_of``, ``covered`` (yes or empty), ``aliases`` (separated by ;)."""
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return cls(
            tuple(Structure(r["name"], r["part_of"], r["covered"] == "yes", tuple(a for a in r["aliases"].split(";") if a)) for r in rows)
        )

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for structure in self.structures:
            for name in (structure.name, *structure.aliases):
                other = seen.setdefault(normal_form(name), structure.name)
                if other != structure.name:
                    raise InputError(f"The label table gives the name '{name}' to both {other} and {structure.name}; give it to one.")
        names = [s.name for s in self.structures]
        for structure in self.structures:
            if structure.part_of and structure.part_of not in names[: names.index(structure.name)]:
                raise InputError(
                    f"The label table says that {structure.name} is part of '{structure.part_of}', which no row above it names."
                )

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def fingerprint(self) -> str:
        """Changes with every change of the table."""
        return sha256_of([repr(self.structures)])[:16]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {normal_form(name): i for i, s in enumerate(self.structures, start=1) for name in (s.name, *s.aliases)}

    def id_of(self, name: str) -> int | None:
        """The id of a name or another name of a structure, however its words, sides and separators are written; None where the table has it not."""
        return self._ids.get(normal_form(name))

    @cached_property
    def ancestry(self) -> NDArray[np.bool_]:
        """``[j, k]``: structure j is k or a part of k, at any depth; ``(ids + 1, ids + 1)``."""
        table = np.eye(len(self) + 1, dtype=bool)
        for i, structure in enumerate(self.structures, start=1):
            if structure.part_of:
                table[i] |= table[self._ids[normal_form(structure.part_of)]]
        return table

    @cached_property
    def relation(self) -> Tensor:
        """What a label j says of structure k, int8 ``(ids + 1, ids + 1)``: 1 it is k, -1 it is not, 0 it may be (k is a part of j)."""
        part = self.ancestry
        relation = np.where(part, 1, np.where(part.T, 0, -1)).astype(np.int8)
        relation[0], relation[:, 0] = 0, 0
        return torch.from_numpy(relation)

    @cached_property
    def mirrored(self) -> Tensor:
        """Ids ``(ids + 1,)`` with left and right exchanged: what each structure is in a mirror. The chambers of the heart keep their names there."""
        swap = {"left": "right", "right": "left"}
        names = ["_".join(swap.get(w, w) if s.part_of != "heart" else w for w in s.name.split("_")) for s in self.structures]
        return torch.tensor([0] + [self.id_of(name) or i for i, name in enumerate(names, start=1)], dtype=torch.int16)

    def known(self, ids: Iterable[int]) -> NDArray[np.bool_]:
        """``(ids + 1,)``: the structures that a source which labels ``ids`` shows wherever they are: these, all their parts, and what is covered by
        known parts."""
        labelled = np.zeros(len(self) + 1, dtype=bool)
        labelled[list(ids)] = True
        labelled[0] = False
        for i in range(len(self), 0, -1):
            parts = [j for j, s in enumerate(self.structures, start=1) if s.part_of == self.structures[i - 1].name]
            if self.structures[i - 1].covered and parts and labelled[parts].all():
                labelled[i] = True
        return (self.ancestry & labelled).any(axis=1)

    def truth(self, labels: Tensor, known: Tensor) -> Tensor:
        """Whether voxels are structures: int8 ``(..., ids + 1)`` for labels ``(...)`` of a scan that knows ``known`` (ids + 1,).

        1: the voxel is k (or a part of it); -1: it is certainly not; 0: nobody said, so it must be left out. Column 0 is 0.
        """
        relation = self.relation.to(labels.device)
        nothing = -known.to(labels.device, torch.int8)[None]
        rows = torch.cat([nothing, relation[1:], torch.zeros_like(nothing)])  # the last row, number UNSURE
        return rows[labels.long()]


def normal_form(name: str) -> str:
    """Lower case, words joined by "_", the side written out and last: "Right Kidney", "kidney_R" and "kidney-right" are one name."""
    words = [w for w in re.split("[^a-z0-9]+", name.lower()) if w]
    sides = [SIDES[w] for w in words if w in SIDES]
    return "_".join([w for w in words if w not in SIDES] + sides)


def read_table(path: Path) -> list[tuple[int, int, str]]:
    """First value, last value and name of every label that a JSON table lists.

    Understood are ``{"1": "liver", "55-70": "spleen"}``, the ``"labels"`` of a ``dataset.json`` in either direction, and text beside the numbers
    (notes), which is passed over. Background is left out.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content.get("labels", content)
    if all(isinstance(v, int) for v in entries.values()):
        entries = {str(v): k for k, v in entries.items()}
    rows = []
    for key, name in entries.items():
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", key)
        if found and normal_form(str(name)) not in BACKGROUND and key != "0":
            rows.append((int(found[1]), int(found[2] or found[1]), str(name)))
    return rows


def to_ids(values: NDArray, rows: list[tuple[int, int, str]], table: LabelTable) -> tuple[IdArray, set[int]]:
    """Ids of a label map, and the ids that its table lists. Values that have no name, or one that the table has not, are ``UNSURE``."""
    ids = np.where(values == 0, 0, UNSURE).astype(np.int16)
    listed = set()
    for first, last, name in rows:
        number = table.id_of(name)
        if number is not None:
            ids[(values >= first) & (values <= last)] = number
            listed.add(number)
    return ids, listed


def load_labels(labels: str, tissue: str, grid: Grid, table: LabelTable) -> tuple[IdArray, NDArray[np.bool_]]:
    """Ids ``(Z, Y, X)`` and known structures ``(ids + 1,)`` of a scan on ``grid``: what a reader labelled, and elsewhere the rule-made tissue.

    A rule that found nothing says nothing, so only a reader's structures are ever known to be absent. InputError where a map has another grid.
    """
    ids = np.zeros(grid.shape_zyx, dtype=np.int16)
    listed: set[int] = set()
    if labels:
        values = _on_grid(labels, grid)
        ids, listed = to_ids(values, read_table(Path(labels.removesuffix(".nii.gz") + ".json")), table)
    if tissue:
        ruled, _ = to_ids(_on_grid(tissue, grid), [(k, k, name) for k, name in LABELS.items()], table)
        ids = np.where(ids == 0, ruled, ids)
    return ids, table.known(listed)


def _on_grid(path: str, grid: Grid) -> NDArray:
    volume = read_volume(path)
    if volume.grid.shape_zyx != grid.shape_zyx or not np.allclose(volume.grid.affine, grid.affine, atol=1e-3):
        raise InputError(f"{path} lies on another grid than its scan; make both with 'python -m training.prepare'.")
    return volume.array

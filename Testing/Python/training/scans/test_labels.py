"""Label sets of different sources under one table: names, parts and wholes, and what nobody said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from label_samples import GRID, labels_of

from training.scans.labels import UNSURE, LabelTable, Structure, load_labels, normal_form, read_table, to_ids
from training.scans.tissue import LABELS
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

TABLE = LabelTable.read()


def ids(*names: str) -> list[int]:
    found = [TABLE.id_of(n) for n in names]
    assert None not in found
    return found


# --- names ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Right Kidney", "kidney_right"),
        ("left adrenal gland", "adrenal_gland_left"),
        ("LUNG_L", "lung_left"),
        ("Bowel_sm_planCT", "small_bowel"),
        ("arota", "aorta"),
        ("postcava", "inferior_vena_cava"),
        ("prostate/uterus", "prostate_or_uterus"),
        ("rib_left_7", "rib_left_7"),
        ("vertebrae_T12", "vertebrae_T12"),
        ("gall bladder", "gallbladder"),
        ("heart_ventricle_left", "heart_ventricle_left"),
    ],
)
def test_names_of_other_sources_are_understood(written: str, name: str) -> None:
    assert TABLE.structures[TABLE.id_of(written) - 1].name == name


def test_tumours_and_typing_errors_are_not_guessed() -> None:
    assert TABLE.id_of("GTV_Mass") is None
    assert TABLE.id_of("livr") is None
    assert normal_form("Kidney (R)") != normal_form("Kidney (L)")


def test_all_rule_made_tissues_have_a_place_in_the_table() -> None:
    assert None not in [TABLE.id_of(n) for n in LABELS.values()]


def test_a_table_with_a_name_for_two_structures_or_an_unknown_whole_is_refused() -> None:
    with pytest.raises(InputError, match="both liver and spleen"):
        LabelTable((Structure("liver", aliases=("milt",)), Structure("spleen", aliases=("Milt",))))
    with pytest.raises(InputError, match="part of 'heart'"):
        LabelTable((Structure("atrium", part_of="heart"), Structure("heart")))


def test_left_and_right_are_exchanged_in_the_mirror_and_nothing_else() -> None:
    mirrored = TABLE.mirrored.long()
    assert torch.equal(mirrored[mirrored], torch.arange(len(TABLE) + 1))
    left, right, liver = ids("rib_left_3", "rib_right_3", "liver")
    assert mirrored[[left, right, liver, 0]].tolist() == [right, left, liver, 0]
    changed = {s.name for i, s in enumerate(TABLE.structures, start=1) if mirrored[i] != i}
    sided = {s.name for s in TABLE.structures if {"left", "right"} & set(s.name.split("_"))}
    alone = {n for n in sided if n.startswith(("heart_", "atrial_appendage"))} | {"lung_middle_lobe_right"}
    assert changed == sided - alone


# --- truth ----------------------------------------------------------------------------------------------------------------------------


def truth(label: str | int, structure: str, known: tuple[str, ...]) -> int:
    number = label if isinstance(label, int) else TABLE.id_of(label)
    answer = TABLE.truth(torch.tensor([number]), torch.from_numpy(TABLE.known(ids(*known))))
    assert answer.shape == (1, len(TABLE) + 1)
    assert answer[0, 0] == 0
    return int(answer[0, TABLE.id_of(structure)])


def test_what_a_source_does_not_label_is_unknown_and_not_background() -> None:
    assert truth(0, "liver", known=("liver",)) == -1
    assert truth(0, "spleen", known=("liver",)) == 0
    assert truth("liver", "liver", known=("liver",)) == 1
    assert truth("liver", "spleen", known=("liver",)) == -1, "nothing can be both"
    assert truth(UNSURE, "liver", known=("liver",)) == 0


def test_parts_are_their_whole_but_a_whole_may_be_any_of_its_parts() -> None:
    assert truth("lung_upper_lobe_left", "lung_left", known=()) == 1
    assert truth("lung_left", "lung_upper_lobe_left", known=("lung_left",)) == 0
    assert truth("lung_left", "lung_right", known=()) == -1
    assert truth("rib_left_2", "bone", known=()) == 1
    assert truth("bone", "vertebrae_L1", known=()) == 0
    assert truth("bone", "liver", known=()) == -1
    assert truth("vertebrae_S1", "bone", known=()) == 1, "at any depth"


def test_who_knows_a_whole_knows_that_its_parts_are_not_elsewhere() -> None:
    assert truth(0, "lung_upper_lobe_left", known=("lung_left",)) == -1
    assert truth(0, "lung_left", known=("lung_upper_lobe_left",)) == 0
    assert truth(0, "lung_left", known=("lung_upper_lobe_left", "lung_lower_lobe_left")) == -1, "both lobes are the lung"
    assert truth(0, "bone", known=("sternum", "skull")) == 0, "there is more bone than these"


def test_truth_keeps_the_shape_and_works_voxel_by_voxel() -> None:
    known = torch.from_numpy(TABLE.known(ids("liver")))
    labels = torch.tensor([[UNSURE, 0], ids("liver", "spleen")], dtype=torch.int16)
    answer = TABLE.truth(labels, known)
    assert answer.shape == (2, 2, len(TABLE) + 1)
    assert answer[..., TABLE.id_of("liver")].tolist() == [[0, -1], [1, -1]]


# --- tables and maps ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"1": "liver", "7": "spleen"}, [(1, 1, "liver"), (7, 7, "spleen")]),
        ({"labels": {"0": "background", "1": "spleen"}, "name": "AMOS"}, [(1, 1, "spleen")]),
        ({"labels": {"background": 0, "liver": 2}}, [(2, 2, "liver")]),
        ({"55-70": "liver"}, [(55, 70, "liver")]),
        ({"note": "ids of some program"}, []),
    ],
)
def test_tables_in_their_usual_forms(tmp_path: Path, content: dict, rows: list) -> None:
    (tmp_path / "t.json").write_text(json.dumps(content))
    assert read_table(tmp_path / "t.json") == rows


def test_values_without_a_known_name_are_unsure() -> None:
    found, listed = to_ids(np.array([0, 1, 2, 3]), [(1, 1, "liver"), (2, 2, "GTV_Mass")], TABLE)
    assert found.tolist() == [0, TABLE.id_of("liver"), UNSURE, UNSURE]
    assert listed == {TABLE.id_of("liver")}


def test_two_sources_combine_and_rules_fill_what_no_reader_labelled(tmp_path: Path) -> None:
    read, ruled = np.zeros(GRID.shape_zyx), np.zeros(GRID.shape_zyx)
    read[0], read[1] = 1, 9
    ruled[0], ruled[2] = 5, 4
    seg = labels_of(tmp_path / "a.seg.nii.gz", read)
    (tmp_path / "a.seg.json").write_text('{"1": "Liver", "3": "spleen"}')
    tissue = labels_of(tmp_path / "a.tissue.nii.gz", ruled)
    found, known = load_labels(str(seg), str(tissue), GRID, TABLE)
    liver, spleen, bone, fat = ids("liver", "spleen", "bone", "fat")
    assert [set(np.unique(found[z])) for z in range(4)] == [{liver}, {UNSURE}, {bone}, {0}]
    assert known[[liver, spleen]].all(), "a structure that the table lists is known even where the scan does not show it"
    assert not known[[bone, fat]].any(), "a rule never says that something is absent"


def test_a_map_on_another_grid_is_refused(tmp_path: Path) -> None:
    seg = labels_of(tmp_path / "a.seg.nii.gz", np.ones((6, 7, 9)), Grid((6, 7, 9), GRID.affine))
    with pytest.raises(InputError, match="another grid"):
        load_labels("", str(seg), GRID, TABLE)

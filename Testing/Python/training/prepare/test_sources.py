"""Where scans come from: names, frames, files that are no scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.prepare.sources import Source, frame_of, from_folder, from_patterns
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


def test_names_and_frames_come_from_the_words_in_braces(tmp_path: Path) -> None:
    for patient in ("1", "2"):
        for phase in ("InPhase", "OutPhase"):
            (tmp_path / "MR" / patient / "T1DUAL" / "DICOM_anon" / phase).mkdir(parents=True)
    (tmp_path / "MR" / "1" / "T2SPIR").mkdir()
    found = from_patterns(tmp_path, "MR/{frame}/T1DUAL/DICOM_anon/{name}", "MR/{frame}/T1DUAL/Ground", dataset="chaos")
    assert [(s.name, s.frame) for s in found] == [(f"chaos_{p}_{n}", f"chaos_{p}") for p in "12" for n in ("InPhase", "OutPhase")]
    with pytest.raises(InputError, match="matches 'CT/"):
        from_patterns(tmp_path, "CT/{name}")


def test_hidden_files_and_label_maps_beside_scans_are_no_scans(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.seg.nii.gz", "._a.nii.gz", "b.nii", "c.mhd", "d.txt", "segmentations/liver.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [s.name for s in from_folder(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("sts002_ct", "sts002"),
        ("sts002_mrT1", "sts002"),
        ("sts001_ct", "sts001_ct"),
        ("sts001_mrT1", "sts001_mrT1"),
        ("prostx0000_T2tra", "prostx0000"),
        ("mscs07_mni_FLAIR", "mscs07"),
        ("ms01_s2_T1w", "ms01_s2"),
        ("sct_mt0", "sct_mt"),
        ("sct_mt_t1w", "sct_mt"),
        ("sct_sub01_MTon", "sct_sub01"),
        ("sct_sub01_MToff", "sct_sub01"),
        ("sct_t2_lumbar", "sct_t2_lumbar"),
        ("lidc_0001_chest", "lidc_0001_chest"),
    ],
)
def test_only_scans_known_to_be_aligned_share_a_frame(name: str, frame: str) -> None:
    assert frame_of(name, {"sts002"}) == frame


def test_a_source_depends_on_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("d/1.dcm", "d/2.dcm", "l.nii.gz", "t.json"):
        (tmp_path / name).touch()
    source = Source("n", tmp_path / "d", labels=(tmp_path / "l.nii.gz",), table=tmp_path / "t.json")
    assert [f.name for f in source.files] == ["1.dcm", "2.dcm", "l.nii.gz", "t.json"]

"""Published models: imported or fetched into the user's folder, honest about what is known of them, and working afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from file_server import Server
from published_files import released
from released import checkpoint, save, weights
from safetensors.torch import save_file
from samples import tiny_model, tissue_volume

from UniversalAnatomicalEmbeddingLib.models import published as module
from UniversalAnatomicalEmbeddingLib.models.catalogue import catalogue
from UniversalAnatomicalEmbeddingLib.models.model import load_model, save_model
from UniversalAnatomicalEmbeddingLib.models.published import Release, fetch, import_checkpoint, import_model, releases
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.files import sha256


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder of the user."""
    path = tmp_path / "data" / "models"
    monkeypatch.setenv("UAE_MODELS", str(path))
    return path


# --- what is known --------------------------------------------------------------------------------------------------------------------


def test_the_three_released_models_are_known_with_what_they_cover() -> None:
    known = releases()
    assert list(known) == ["sam", "uae-s", "uae-m"]
    assert [r.file for r in known.values()] == ["SAM.pth", "SAMv2_iter_20000.pth", "CrossSAM_iter_20000_ct_mr_inter_1.pth"]
    assert known["sam"].sha256.startswith("8dfedc38f587") and known["uae-s"].sha256.startswith("a094d5eef867")
    assert known["uae-m"].sha256 == known["uae-m"].url == "", "its checksum is not known, so it is never downloaded unseen"
    for release in known.values():
        assert "not known to this project" in release.licence and release.page and release.citation and release.regions
    assert {m for r in known.values() for m in r.modality} == {"ct", "mr"}


def test_user_can_list_more_but_not_other_ones_under_a_known_name(folder: Path) -> None:
    folder.mkdir(parents=True)
    entries = [
        {"id": n, "title": "x", "file": "x.safetensors", "sha256": "0", "licence": "CC0", "modality": ["ct"]} for n in ("sam", "ours")
    ]
    (folder / "released.json").write_text(json.dumps({"models": entries}))
    known = releases()
    assert known["ours"].modality == ("ct",) and known["sam"].file == "SAM.pth"
    (folder / "released.json").write_text("{}")
    with pytest.raises(InputError, match=r"released\.json"):
        releases()


# --- import ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small checkpoint of each family."""
    where = tmp_path_factory.mktemp("checkpoints")
    return {family: save(checkpoint(weights(family)), where / f"my {family}!.pth") for family in ("sam", "uae-s", "uae-m")}


@pytest.mark.parametrize("family", ["sam", "uae-s", "uae-m"])
def test_imported_model_has_the_weights_of_the_file_in_full_precision(family: str, files: dict[str, Path], folder: Path) -> None:
    imported = import_checkpoint(files[family])
    assert imported.entry.id == f"my-{family}" and imported.entry.source == "imported"
    assert sorted(p.name for p in folder.iterdir()) == ["catalogue.json", f"my-{family}.safetensors"]
    assert sha256(imported.entry.path) == imported.entry.sha256
    model, state = load_model(imported.entry.id), weights(family)
    kept = {k: v for k, v in state.items() if family != "uae-m" or not k.startswith("semantic_head.")}
    found = model.network.state_dict()
    assert found.keys() == kept.keys() and all(torch.equal(found[k], kept[k]) for k in kept)
    card = model.card
    assert card.pipeline == "released" and card.calibration is None and card.accuracy == {}
    assert card.modality == (("ct", "mr") if family == "uae-m" else ("ct",))
    assert card.intensity.ct_knots == ((-1024, -50), (3071, 205)) and not card.intensity.mr_foreground
    assert card.training["verified"] is False and card.training["sha256"] == sha256(files[family])


def test_unverified_file_is_said_to_be_so(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    imported = import_checkpoint(files["uae-s"])
    notices = " ".join(imported.notices)
    assert "Unverified" in notices and sha256(files["uae-s"]) in notices and "a094d5eef867" in notices and "Taken for uae-s" in notices
    assert "Not known" in load_model(imported.entry.id).card.licence
    imported = import_checkpoint(files["uae-m"], "uae-m", "abdomen")
    assert "is not known" in imported.notices[0] and len(imported.notices) == 1 and imported.entry.id == "abdomen"


def test_released_file_is_verified_and_gets_its_name(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    released(monkeypatch, "uae-s", sha256=sha256(files["uae-s"]))
    imported = import_checkpoint(files["uae-s"])
    assert imported.notices == () and imported.entry.id == "uae-s"
    card = load_model("uae-s").card
    assert card.training["verified"] and card.title.startswith("UAE-S") and "head and neck" in card.regions
    with pytest.raises(InputError, match="Leave out --family"):
        import_checkpoint(files["uae-s"], "sam")


def test_file_with_the_released_name_gets_the_released_id_but_stays_unverified(tmp_path: Path) -> None:
    path = save(checkpoint(weights("uae-m")), tmp_path / "CrossSAM_iter_20000_ct_mr_inter_1.pth")
    imported = import_checkpoint(path)
    assert imported.entry.id == "uae-m" and "Unverified" in imported.notices[0]


def test_importing_twice_changes_nothing_and_another_file_needs_another_name(files: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    first = import_checkpoint(files["sam"], name="mine")
    assert import_checkpoint(files["sam"], name="mine") == first
    other = save(checkpoint(weights("sam", seed=1)), tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"already another model 'mine'.*--id"):
        import_checkpoint(other, name="mine")
    with pytest.raises(InputError, match="already another model 'compact"):
        import_checkpoint(other, name=next(iter(catalogue())))
    assert load_model("mine").card.training["sha256"] == sha256(files["sam"])


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "x" * 65])
def test_odd_ids_are_refused(name: str, files: dict[str, Path], folder: Path) -> None:
    if name:
        with pytest.raises(InputError, match="id of a model"):
            import_checkpoint(files["sam"], name=name)
        assert not folder.exists()


def test_refused_file_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    state = weights("sam")
    del state["backbone.conv1.conv.weight"]
    with pytest.raises(InputError, match="missing"):
        import_checkpoint(save(state, tmp_path / "a.pth"))
    with pytest.raises(InputError, match="no file"):
        import_checkpoint(tmp_path / "none.pth")
    assert not folder.exists()


def test_damaged_list_of_own_models_is_reported_and_the_default_still_comes_first(files: dict[str, Path], folder: Path) -> None:
    import_checkpoint(files["sam"], name="aaa")
    assert list(catalogue())[-1] == "aaa" and len(catalogue()) > 1
    (folder / "aaa.safetensors").unlink()
    with pytest.raises(InputError, match="Import or fetch"):
        load_model("aaa")
    (folder / "catalogue.json").write_text('{"models": [{"id": 3}]}')
    with pytest.raises(InputError, match=r"catalogue\.json"):
        catalogue()


def test_imported_model_matches_a_scan_with_itself_in_every_mode(tmp_path: Path) -> None:
    """From the checkpoint file to a landmark: default, fixed points, and both in the published arithmetic."""
    import_checkpoint(save(checkpoint(weights("sam", full=True)), tmp_path / "a.pth"), name="mine")
    volume = tissue_volume((24, 64, 64))
    point = volume.grid.index_to_world([[12, 30, 33]])
    for compat in (False, True):
        session = Session("mine", "cpu", compat=compat)
        scan = session.embed(volume)
        assert scan.embedding.pipeline == ("published" if compat else "released")
        for method in ("nn", "fixed-point"):
            [match] = session.match(scan, point, scan, MatchOptions(method=method, compat=compat))
            assert np.linalg.norm(match.point_lps - point) < (6.0 if compat else 2.5)
            assert np.isnan(match.confidence)


def test_a_damaged_or_deleted_import_is_repaired_by_importing_again(files: dict[str, Path], folder: Path) -> None:
    first = import_checkpoint(files["sam"], name="mine")
    first.entry.path.write_bytes(b"damaged")
    assert import_checkpoint(files["sam"], name="mine") == first
    first.entry.path.unlink()
    assert import_checkpoint(files["sam"], name="mine") == first and load_model("mine").card.id == "mine"


def test_a_file_with_a_card_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "my model.safetensors"
    save_model(tiny_model(), path)
    imported = import_model(path)
    assert imported.entry.id == "tiny" and imported.notices == () and imported.entry.source == "imported"
    fingerprint = load_model(path).fingerprint()
    path.unlink()
    assert load_model("tiny").fingerprint() == fingerprint and load_model("tiny").card == tiny_model().card
    assert import_model(imported.entry.path) == imported, "its own copy"
    save_model(tiny_model(seed=1), path)
    with pytest.raises(InputError, match=r"already another model 'tiny'.*--id NAME"):
        import_model(path)
    assert import_model(path, name="other").entry.id == "other" and load_model("other").card == replace(tiny_model().card, id="other")
    with pytest.raises(InputError, match="Leave out --family"):
        import_model(path, "sam")


def test_a_copy_of_the_bundled_model_is_the_bundled_model(folder: Path) -> None:
    default = next(iter(catalogue().values()))
    assert import_model(default.path).entry == default and not folder.exists()


def test_a_card_that_lies_about_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"card": tiny_model().card.to_json()})
    with pytest.raises(InputError, match="does not fit its own model card"):
        import_model(tmp_path / "a.safetensors")
    assert not folder.exists()


def test_a_released_layout_is_converted_from_safetensors_too(folder: Path, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in weights("sam").items()}, tmp_path / "SAM copy.safetensors")
    imported = import_model(tmp_path / "SAM copy.safetensors")
    assert imported.entry.id == "SAM-copy" and load_model("SAM-copy").card.pipeline == "released"


def test_compat_is_refused_where_it_has_no_meaning(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no published way"):
        Session(tiny_model(), "cpu", compat=True)
    session = Session(tiny_model(), "cpu")
    scan = session.embed(tissue_volume((24, 24, 24)))
    with pytest.raises(InputError, match="--compat"):
        session.match(scan, scan.embedding.grid.corners().mean(0), scan, MatchOptions(compat=True))


# --- fetch ----------------------------------------------------------------------------------------------------------------------------


def test_fetched_checkpoint_is_converted_and_not_kept(
    server: Server,
    files: dict[str, Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.content, server.cuts = files["sam"].read_bytes(), [20_000]
    released(monkeypatch, "sam", url=server.url, sha256=sha256(files["sam"]))
    imported = fetch(module.releases()["sam"])
    assert imported.entry.id == "sam" and imported.notices == ()
    assert sorted(p.name for p in folder.iterdir()) == ["catalogue.json", "sam.safetensors"]


def test_fetched_safetensors_model_is_entered_as_it_is(server: Server, tmp_path: Path, folder: Path) -> None:
    save_model(tiny_model(), tmp_path / "tiny.safetensors")
    server.content = (tmp_path / "tiny.safetensors").read_bytes()
    release = Release("tiny", "Tiny", "tiny.safetensors", sha256(tmp_path / "tiny.safetensors"), "CC0", server.url)
    fetch(release)
    assert catalogue()["tiny"].source == "downloaded" and load_model("tiny").card.id == "tiny"
    other = Release("other", "Tiny", "other.safetensors", release.sha256, "CC0", server.url)
    with pytest.raises(InputError, match="another model than other"):
        fetch(other)
    assert not (folder / "other.safetensors").exists()


def test_without_an_address_or_checksum_the_way_by_hand_is_told() -> None:
    with pytest.raises(InputError, match=r"get CrossSAM_.*modelscope.*uae models import CrossSAM_"):
        fetch(releases()["uae-m"])
    with pytest.raises(InputError, match="plain file name"):
        fetch(Release("x", "", "../x.safetensors", "0", "", "http://127.0.0.1/x"))

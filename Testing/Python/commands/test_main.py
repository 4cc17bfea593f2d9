"""The command ``uae`` in process: the files it writes, what it prints, and one sentence for every mistake."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from samples import tiny_model
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.commands.main import main
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, write_volume
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, read_points, write_points
from UniversalAnatomicalEmbeddingLib.matching.confidence import FEATURES
from UniversalAnatomicalEmbeddingLib.models import catalogue
from UniversalAnatomicalEmbeddingLib.models.model import Model, save_model
from UniversalAnatomicalEmbeddingLib.system.files import sha256

COLUMNS = "target,landmark,x,y,z,similarity,margin,cycle_mm,confidence,status"
SHIFT = np.array([30.0, -12.0, 250.0])
LANDMARKS = PointList(
    (
        Point("carina", (41.0, 41.0, 45.0), "where the trachea parts", "17"),
        Point("not placed", None, status="undefined"),
        Point("left apex, upper", (53.0, 33.0, 53.0), id="apex"),
    ),
    "mine",
)
PLACED = [p for p in LANDMARKS if p.position_lps is not None]


def patient(seed: int, origin: np.ndarray, spacing: float = 2.0) -> Volume:
    """A block of smooth made-up soft tissue in air."""
    rng = np.random.default_rng(seed)
    array = np.full((48, 44, 48), -1000, np.float32)
    tissue = ndimage.gaussian_filter(rng.standard_normal((40, 36, 40)), 3)
    array[4:-4, 4:-4, 4:-4] = 50 + 60 * tissue / tissue.std()
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    return Volume(array.clip(-1000, 300).astype(np.int16), Grid(array.shape, affine), "ct")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans a and b of one patient, b moved; c of another; a broken file, landmarks of a, and a pretrained folder whose default is tiny."""
    folder = tmp_path_factory.mktemp("scans")
    write_volume(patient(1, np.zeros(3)), folder / "a.nrrd")
    write_volume(patient(1, SHIFT), folder / "b.nii.gz")
    write_volume(patient(2, np.zeros(3)), folder / "c.mha")
    (folder / "broken.nrrd").write_bytes(b"NRRD0004\n# cut short")
    write_points(LANDMARKS, folder / "a.mrk.json")
    pretrained = folder / "pretrained"
    pretrained.mkdir()
    model, weights = tiny_model(), pretrained / "tiny.safetensors"
    save_model(model, weights)
    entry = {"id": "tiny", "source": "bundled", "file": weights.name, "sha256": sha256(weights), "size": weights.stat().st_size}
    (pretrained / "catalogue.json").write_text(json.dumps({"default": "tiny", "models": [entry]}))
    sure = {"correct": [0.0] * len(FEATURES) + [2.0], "present": [0.0] * len(FEATURES) + [2.0], "absent_below": 0.5}
    for name, values in (("calibrated", sure), ("blind", {**sure, "absent_below": 0.99})):
        save_model(Model(model.network, replace(model.card, calibration=values)), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def pretrained(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The catalogue holds the tiny model, and no test touches the user's cache."""
    monkeypatch.setattr(catalogue, "PRETRAINED", folder / "pretrained")
    monkeypatch.setenv("UAE_CACHE", str(tmp_path / "cache"))


def match(folder: Path, out: Path, *targets: str, landmarks: bool = True, options: tuple[str, ...] = ()) -> int:
    given = ["--landmarks", str(folder / "a.mrk.json")] if landmarks else []
    wanted = [item for target in targets for item in ("--target", str(folder / target))]
    return main(["match", "--template", str(folder / "a.nrrd"), *given, *wanted, "--out", str(out), "--device", "cpu", *options])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def says(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("uae: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error.removeprefix("uae: ").strip()


# --- match ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run on two targets."""
    out = tmp_path_factory.mktemp("results") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "PRETRAINED", folder / "pretrained")
        assert match(folder, out, "b.nii.gz", "c.mha", "a.nrrd", options=("--cache", str(out.parent / "cache"))) == 0
    return out


def test_match_writes_a_table_a_landmark_file_per_target_and_a_picture(matched: Path) -> None:
    assert {p.name for p in matched.iterdir()} == {"matches.csv", "b.mrk.json", "c.mrk.json", "a_2.mrk.json", "report.png"}
    assert (matched / "matches.csv").read_text().splitlines()[0] == COLUMNS
    assert min(imread(matched / "report.png").shape[:2]) > 200


def test_the_table_has_a_row_per_target_and_placed_landmark(matched: Path) -> None:
    rows = table(matched / "matches.csv")
    assert [(r["target"], r["landmark"]) for r in rows] == [(t, p.label) for t in ("b", "c", "a_2") for p in PLACED]
    for r in rows:
        assert r["confidence"] == "", "the tiny model is not calibrated"
        assert r["status"] in ("found", "uncertain")
        assert 0 < float(r["similarity"]) <= 1.001
        assert float(r["cycle_mm"]) >= 0
        assert np.isfinite(float(r["margin"]))


def test_a_patient_moved_shows_every_landmark_moved_along(matched: Path) -> None:
    """Whatever an untrained network makes of the scan, the answer must move with the patient."""
    rows = {(r["target"], r["landmark"]): r for r in table(matched / "matches.csv")}
    for point in PLACED:
        here, moved = rows["a_2", point.label], rows["b", point.label]
        assert np.subtract(*([float(r[axis]) for axis in "xyz"] for r in (moved, here))) == pytest.approx(SHIFT, abs=0.01)
        assert (moved["status"], moved["similarity"]) == (here["status"], here["similarity"])
        assert float(here["similarity"]) > 0.9


def test_landmark_files_keep_names_ids_and_descriptions_and_add_the_verdict(matched: Path) -> None:
    found = read_points(matched / "b.mrk.json")
    rows = table(matched / "matches.csv")
    assert found.name == "b"
    assert [(p.label, p.id) for p in found] == [("carina", "17"), ("left apex, upper", "apex")]
    assert [p.description for p in found] == [f"where the trachea parts; {rows[0]['status']}", rows[1]["status"]]
    for point, r in zip(found, rows, strict=False):
        np.testing.assert_allclose(point.position_lps, [float(r[axis]) for axis in "xyz"], atol=6e-4)
        assert point.measurements["similarity"] == pytest.approx(float(r["similarity"]), abs=6e-5)
        assert point.measurements["cycle_mm"] == pytest.approx(float(r["cycle_mm"]), abs=6e-3)
        assert "confidence" not in point.measurements


def test_landmarks_can_be_given_on_the_command_line_and_are_added_to_the_file(folder: Path, tmp_path: Path) -> None:
    assert match(folder, tmp_path, "b.nii.gz", options=("--landmark", "a=b=40,42.5,4.4e1", "--landmark", "top = 44 , 44, 50")) == 0
    assert [r["landmark"] for r in table(tmp_path / "matches.csv")] == ["carina", "left apex, upper", "a=b", "top "]


def test_a_calibrated_model_gives_confidences(folder: Path, tmp_path: Path) -> None:
    assert match(folder, tmp_path, "b.nii.gz", options=("--model", str(folder / "calibrated.safetensors"))) == 0
    # sigmoid(2) for an error under 10 mm, times sigmoid(2) for being there
    assert [(r["confidence"], r["status"]) for r in table(tmp_path / "matches.csv")] == [("0.7758", "found")] * 2
    [point, _] = read_points(tmp_path / "b.mrk.json")
    assert point.measurements["confidence"] == pytest.approx(0.7758, abs=1e-4)


def test_an_absent_landmark_has_a_verdict_but_no_position(folder: Path, tmp_path: Path) -> None:
    assert match(folder, tmp_path, "b.nii.gz", options=("--model", str(folder / "blind.safetensors"))) == 0
    for r in table(tmp_path / "matches.csv"):
        assert (r["x"], r["y"], r["z"], r["status"]) == ("", "", "", "absent")
        assert float(r["similarity"]) > 0.9
    assert [(p.label, p.position_lps, p.status) for p in read_points(tmp_path / "b.mrk.json")] == [
        (p.label, None, "missing") for p in PLACED
    ]


def test_fixed_points_find_the_moved_patient_too(folder: Path, tmp_path: Path) -> None:
    assert match(folder, tmp_path, "b.nii.gz", options=("--method", "fixed-point")) == 0
    for r, point in zip(table(tmp_path / "matches.csv"), PLACED, strict=True):
        assert np.linalg.norm(np.subtract([float(r[axis]) for axis in "xyz"], point.position_lps) - SHIFT) < 1.0
    notes = [p.description for p in read_points(tmp_path / "b.mrk.json")]
    assert not any("no fixed points" in note for note in notes)


def test_progress_and_results_are_told_apart(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match(folder, tmp_path, "b.nii.gz") == 0
    captured = capsys.readouterr()
    assert "carina" in captured.out
    assert f"wrote {tmp_path}/matches.csv" in captured.out
    assert captured.err == ""


# --- names ----------------------------------------------------------------------------------------------------------------------------


def test_scans_of_the_same_name_overwrite_neither_each_other_nor_the_template(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / ("a.nrrd" if name == "one" else "c.mha"), tmp_path / name / ("a.nrrd" if name == "one" else "a.mha"))
    shutil.copy(folder / "a.mrk.json", tmp_path / "a.mrk.json")
    before = (tmp_path / "a.mrk.json").read_bytes()
    assert match(folder, tmp_path, str(tmp_path / "one" / "a.nrrd"), str(tmp_path / "two" / "a.mha"), "a.nrrd") == 0
    assert {p.name for p in tmp_path.glob("*.mrk.json")} == {"a.mrk.json", "a_2.mrk.json", "a_3.mrk.json", "a_4.mrk.json"}
    assert (tmp_path / "a.mrk.json").read_bytes() == before
    assert [r["target"] for r in table(tmp_path / "matches.csv")] == ["a_2", "a_2", "a_3", "a_3", "a_4", "a_4"]
    same, other, itself = (read_points(tmp_path / f"a_{n}.mrk.json").positions() for n in (2, 3, 4))
    np.testing.assert_allclose(same, itself, atol=1e-6)
    assert np.abs(same - other).max() > 1


# --- mistakes -------------------------------------------------------------------------------------------------------------------------


def test_one_bad_target_is_reported_and_the_others_are_done(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match(folder, tmp_path, "broken.nrrd", "b.nii.gz") == 2
    assert "broken.nrrd cannot be read" in says(capsys)
    assert [r["target"] for r in table(tmp_path / "matches.csv")] == ["b", "b"]
    assert (tmp_path / "b.mrk.json").is_file()
    assert (tmp_path / "report.png").is_file()
    assert not (tmp_path / "broken.mrk.json").exists()


def test_no_good_target_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert match(folder, out, "none.nrrd") == 2
    assert "none.nrrd does not exist" in says(capsys)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["carina", "carina=1,2", "carina=1,2,3,4", "carina=1,2,x", "=1,2,3", "carina=1,nan,3", "carina=1,inf,3", ""]
)
def test_a_landmark_that_cannot_be_parsed_is_quoted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert match(folder, tmp_path / "out", "b.nii.gz", landmarks=False, options=("--landmark", text)) == 2
    assert f"'{text}' is not a landmark; write NAME=x,y,z in LPS mm" in says(capsys)
    assert not (tmp_path / "out").exists()


def test_without_landmarks_the_options_to_give_them_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match(folder, tmp_path, "b.nii.gz", landmarks=False) == 2
    assert "--landmarks FILE or --landmark NAME=x,y,z" in says(capsys)
    write_points(PointList((Point("a", None, status="undefined"),)), tmp_path / "none.mrk.json")
    assert match(folder, tmp_path, "b.nii.gz", landmarks=False, options=("--landmarks", str(tmp_path / "none.mrk.json"))) == 2
    assert "No landmark with a position" in says(capsys)


def test_a_landmark_outside_the_template_is_named_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match(folder, tmp_path, "b.nii.gz", "c.mha", options=("--landmark", "far=900,0,0")) == 2
    assert "Landmark 'far' at LPS (900.0, 0.0, 0.0) mm lies outside the patient in a; place it inside" in says(capsys)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "nonsense"), "No model 'nonsense'"),
        (("--device", "cuda:99"), "Device 'cuda:99' is not available"),
        (("--landmarks", "none.csv"), "none.csv does not exist"),
        (("--template", "none.nrrd"), "none.nrrd does not exist"),
    ],
)
def test_other_mistakes_are_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str
) -> None:
    assert match(folder, tmp_path, "b.nii.gz", options=options) == 2
    assert sentence in says(capsys)


def test_too_little_memory_is_one_sentence_and_a_defect_is_not_hidden(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(message: str) -> None:
        def job(*args: object) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr("UniversalAnatomicalEmbeddingLib.session.embed_volume", job)

    fail("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
    assert match(folder, tmp_path, "b.nii.gz") == 2
    assert "not enough memory" in says(capsys)
    fail("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        match(folder, tmp_path, "b.nii.gz")


def test_a_file_where_the_results_should_go_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("in the way")
    assert match(folder, tmp_path / "out", "b.nii.gz") == 2
    assert f"{tmp_path / 'out'} (File exists). Give another one with --out" in says(capsys)


def test_results_that_cannot_be_written_are_noticed_before_the_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every command that works for long."""
    monkeypatch.setattr("UniversalAnatomicalEmbeddingLib.session.embed_volume", lambda *_: pytest.fail("was embedded"))
    (tmp_path / "out").write_text("in the way")
    (tmp_path / "pairs.json").write_text(
        json.dumps([{"fixed": str(folder / "a.nrrd"), "moving": str(folder / "b.nii.gz"), "truth": "identity"}])
    )
    scans = ["--fixed", str(folder / "a.nrrd"), "--moving", str(folder / "b.nii.gz")]
    for command in (["demo"], ["evaluate", str(tmp_path / "pairs.json")], ["register", *scans]):
        assert main([*command, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
        assert "another one with --out" in says(capsys)


def test_a_cache_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert match(folder, tmp_path / "out", "b.nii.gz", options=("--cache", str(tmp_path / "cache"))) == 2
    assert f"{tmp_path / 'cache'} cannot be used (File exists). Check its path" in says(capsys)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["match"], ["match", "--method", "magic"]])
def test_the_parser_refuses_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: uae" in capsys.readouterr().err


# --- evaluate -------------------------------------------------------------------------------------------------------------------------


def test_evaluate_writes_figures_a_table_and_a_picture(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tuple(replace(p, position_lps=tuple(p.position_lps + SHIFT)) for p in PLACED[:1])
    write_points(PointList(moved), folder / "b.mrk.json")
    pair = {"template": "a.nrrd", "template_landmarks": "a.mrk.json", "target": "b.nii.gz", "target_landmarks": "b.mrk.json"}
    pairs = [{**pair, "absent": ["left apex, upper"]}, {"fixed": "a.nrrd", "moving": "c.mha", "truth": "identity"}]
    (folder / "PAIRS.json").write_text(json.dumps(pairs))
    assert main(["evaluate", str(folder / "PAIRS.json"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"evaluation.json", "matches.csv", "errors.png"}
    printed = capsys.readouterr().out
    said = [s for s in printed.splitlines() if ": CT, guessed" in s]
    assert [line.split(":")[0] for line in said] == ["a", "b", "c"]  # once per scan
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    keys = "n mean_mm sd_mm median_mm p95_mm cpm10 absent_sensitivity absent_specificity seconds_embed seconds_match by_landmark"
    assert set(keys.split()) <= figures.keys()
    assert figures["n"] == 201
    assert figures["n_absent"] == 1
    assert 0 <= figures["by_landmark"]["carina"]["mean_mm"] < 60
    assert len(figures["by_landmark"]) == 201
    assert len(table(tmp_path / "out" / "matches.csv")) == 202
    assert f"wrote {tmp_path / 'out'}/evaluation.json" in printed


def test_evaluate_of_absent_landmarks_alone_writes_its_picture_too(folder: Path, tmp_path: Path) -> None:
    pair = {"template": "a.nrrd", "template_landmarks": "a.mrk.json", "target": "c.mha"}
    (folder / "ABSENT.json").write_text(json.dumps([pair]))
    assert main(["evaluate", str(folder / "ABSENT.json"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"evaluation.json", "matches.csv", "errors.png"}


def test_evaluate_says_what_is_wrong_with_the_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "PAIRS.json").write_text("[]")
    assert main(["evaluate", str(tmp_path / "PAIRS.json"), "--out", str(tmp_path / "out")]) == 2
    assert "non-empty list" in says(capsys)
    assert not (tmp_path / "out").exists()


# --- embed, models, cache -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_embedding_ahead_fills_the_cache_that_match_then_uses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ("--cache", str(tmp_path / "kept"))
    assert main(["embed", str(folder / "a.nrrd"), str(folder / "b.nii.gz"), "--device", "cpu", *cache]) == 0
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert [line.split(":")[0] for line in said] == ["a", "a", "b", "b"]
    assert said[0] == "a: CT" and said[2] == "b: CT"
    made = {p.name: p.stat().st_ctime_ns for p in (tmp_path / "kept").rglob("fine.npy")}
    assert main(["cache", "info", *cache]) == 0
    assert f"{tmp_path / 'kept'}: 2 embedding(s), " in capsys.readouterr().out
    assert match(folder, tmp_path / "out", "b.nii.gz", options=cache) == 0
    assert {p.name: p.stat().st_ctime_ns for p in (tmp_path / "kept").rglob("fine.npy")} == made
    capsys.readouterr()
    assert main(["cache", "clear", *cache]) == 0
    assert capsys.readouterr().out.startswith("removed 2 embedding(s)")
    assert main(["cache", "info", *cache]) == 0
    assert ": 0 embedding(s), 0 MiB" in capsys.readouterr().out


def test_embed_goes_on_after_a_bad_scan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(folder / "broken.nrrd"), str(folder / "c.mha"), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out.startswith("c: ")


def test_models_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out.startswith("tiny (default): Tiny; CT, MR; ")
    for which in (["tiny"], []):
        assert main(["models", "show", *which]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == "tiny"
    assert main(["models", "show", "nonsense"]) == 2
    assert "one of tiny" in says(capsys)


def test_the_bundled_models_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalogue, "PRETRAINED", Path(catalogue.__file__).parents[1] / "pretrained")
    if not (catalogue.PRETRAINED / "catalogue.json").is_file():
        pytest.skip("no model is bundled yet")
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split(":")[0].endswith(" (default)")
    here = [line for line in listed if "(not here)" not in line]
    assert len(here) == len(catalogue.catalogue())
    assert {line.split(" ")[0] for line in listed[len(here) :]} == {"sam", "uae-s", "uae-m"}

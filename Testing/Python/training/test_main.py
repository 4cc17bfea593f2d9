"""The configurations: each trains a step on tiny scans, ours agree with each other, the published ones with the papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from training_scene import make_scan

from training.main import main

pytestmark = pytest.mark.filterwarnings("ignore")
FOLDER = Path(__file__).resolve().parents[3] / "training" / "configs"
GPU = FOLDER / "gpu.yaml"
CONFIGS = sorted(p for p in FOLDER.glob("*.yaml") if "card" not in p.name and p != GPU)
PUBLISHED = [p for p in CONFIGS if p.name.startswith("published")]
COMPACT = [p for p in CONFIGS if p.name.startswith("compact")]


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_there_is_a_configuration_of_each_method_for_each_network() -> None:
    assert {p.stem for p in CONFIGS} == {f"{who}_{what}" for who in ("compact", "published") for what in ("sam", "uae_s", "uae_m")}


@pytest.mark.parametrize(
    ("path", "over"), [*((p, ()) for p in CONFIGS), (FOLDER / "compact_uae_s.yaml", (GPU,))], ids=[*(p.stem for p in CONFIGS), "on a GPU"]
)
def test_every_configuration_trains_a_step(path: Path, over: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scan(tmp_path / "ct.nii.gz", 1, "ct")
    make_scan(tmp_path / "mr.nii.gz", 2, "mr")
    make_scan(tmp_path / "ct.seg.nii.gz", 3, "mr")
    (tmp_path / "ct.seg.json").write_text('{"1-380": "liver", "381-420": "spleen", "421-900": "kidney_left"}')
    (tmp_path / "index.csv").write_text("path,modality,frame,labels\nct.nii.gz,ct,p,ct.seg.nii.gz\nmr.nii.gz,mr,p,ct.seg.nii.gz\n")
    monkeypatch.chdir(tmp_path)
    size = 16 if "published" in path.name else 48
    overrides = {
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true" if "published" in path.name else "bf16-mixed",
        "trainer.max_steps": 1,
        "data.index": "index.csv",
        "data.pairs_per_step": 1,
        "data.max_view": f"[{size},{2 * size if size == 16 else size},{2 * size if size == 16 else size}]",
        "data.augmentation.jitter_mm": 2,
        "data.augmentation.zoom": "[0.9,1.1]",
        **({"data.workers": 2, "data.shapes": "[[48,48,48]]"} if over else {}),  # its views are for a GPU
    }
    configs = [f"--config={p}" for p in (path, *over)]
    trained = main(["fit", *configs, *(f"--{k}={v}" for k, v in overrides.items())])
    assert trained.trainer.global_step == 1
    assert (trained.trainer.datamodule.hparams.workers, bool(trained.trainer.datamodule.hparams.shapes)) == (
        (2, True) if over else (0, False)
    )
    metrics = trained.trainer.callback_metrics
    assert metrics["points"] >= 16
    expected = {"loss_fine", "loss_coarse"} | ({"loss_semantic"} if "uae_s" in path.name else set())
    assert {k for k in metrics if k.startswith("loss_")} == expected
    assert all(torch.isfinite(v) and v > 0 for k, v in metrics.items() if k.startswith("loss_"))


def flat(values: dict, before: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for k, v in values.items():
        found |= flat(v, f"{before}{k}.") if isinstance(v, dict) and v else {f"{before}{k}": v}
    return found


@pytest.mark.parametrize("path", COMPACT, ids=lambda p: p.stem)
def test_ours_differ_only_in_what_makes_the_method(path: Path) -> None:
    """What the bundled model was trained with must not drift apart between the files."""
    sam, other = flat(read("compact_sam")), flat(read(path.stem))
    own = {k for k in sam.keys() | other.keys() if sam.get(k) != other.get(k)}
    runs = {k for k in own if str(sam.get(k, "")).startswith("runs/compact") or "logger" in k or "callbacks" in k}
    allowed = (
        "model.semantic.",
        "model.initial",
        "model.network.init_args",
        "data.labels",
        "data.augmentation",
        "data.cross_p",
        "data.between_p",
    )
    assert all(k.startswith(allowed) for k in own - runs)
    for block in ("logger", "callbacks"):
        mine, base = (yaml.safe_dump(read(name)["trainer"][block]) for name in (path.stem, "compact_sam"))
        assert mine.replace(f"runs/{path.stem}", "runs/compact") == base.replace("runs/compact_sam", "runs/compact")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_settings_are_those_of_the_papers(path: Path) -> None:
    trainer, model, data = (read(path.stem)[k] for k in ("trainer", "model", "data"))
    assert trainer["max_steps"] == 20_000
    assert (model["optimizer"], model["learning_rate"], model["weight_decay"], model["warmup"], model["decay"]) == (
        "sgd",
        0.02,
        1e-4,
        500,
        0,
    )
    c = model["contrast"]
    assert (model["points"], c["fine_pool"], c["fine_keep"], c["coarse_pool"], c["coarse_keep"]) == (100, 2000, 500, 250, 200)
    assert (c["fine_ignore_mm"], c["coarse_ignore_mm"], c["fine_temperature"], c["coarse_temperature"]) == (20, 5, 0.5, 0.5)
    assert c["cross_negatives"] == 1000
    assert (data["max_view"], data["least_view"], data["augmentation"]["zoom"]) == ([32, 96, 96], 1.0, [0.8, 1.2])
    assert data["pairs_per_step"] == {"published_sam": 6, "published_uae_s": 5, "published_uae_m": 4}[path.stem]
    on = {k: v for k, v in data["augmentation"].items() if k.endswith("_p") and v}
    assert on == ({"blur_p": 1.0, "remap_p": 0.9, "invert_p": 0.3, "remap_own_range_p": 0.3} if path.stem == "published_uae_m" else {})
    assert ("semantic" in model) == (path.stem == "published_uae_s")
    if path.stem == "published_uae_s":
        assert (model["semantic"]["temperature"], model["semantic"]["alternate_p"]) == (0.1, 0.4)


def test_published_augmentations_name_every_probability() -> None:
    """So that a new kind of augmentation does not slip into them by its default."""
    from training.batches.augment import Augmentation

    off_by_default = {k for k, v in vars(Augmentation()).items() if k.endswith("_p") and v == 0}
    wanted = {k for k in vars(Augmentation()) if k.endswith("_p")} - off_by_default
    for path in PUBLISHED:
        assert wanted <= read(path.stem)["data"]["augmentation"].keys()

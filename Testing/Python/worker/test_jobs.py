"""The jobs of the worker, done in this process with a tiny network, and once through a real worker."""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from released import checkpoint, save, weights
from samples import tiny_model, tissue_volume

from UniversalAnatomicalEmbeddingLib.embedding.cache import Cache
from UniversalAnatomicalEmbeddingLib.models.model import save_model
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import Transform, read_transform
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system.diagnostics import DeviceProbe
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled, silent
from UniversalAnatomicalEmbeddingLib.worker import jobs as jobs_module
from UniversalAnatomicalEmbeddingLib.worker.client import Done, Progress, WorkerClient
from UniversalAnatomicalEmbeddingLib.worker.jobs import Jobs
from UniversalAnatomicalEmbeddingLib.worker.messages import encode_line, stage


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """An embed job for a tiny network, its scan staged."""
    save_model(tiny_model(("ct",)), tmp_path / "tiny.safetensors")
    staged = stage({"volume": tissue_volume(name="chest")}, tmp_path, 1)
    return {**staged, "model": str(tmp_path / "tiny.safetensors"), "device": "cpu", "cache": str(tmp_path / "cache")}


def run(jobs: Jobs, name: str, values: dict[str, Any], progress: Any = silent, cancel: Event | None = None) -> dict[str, Any]:
    result = jobs.run(name, values, progress, cancel or Event())
    json.loads(encode_line(result))  # every answer can be sent
    return result


def test_embed_answers_where_the_embedding_is(job: dict[str, Any]) -> None:
    result = run(Jobs(), "embed", job)
    embedding = Cache(Path(result["cache"])).load(result["key"], result["name"])
    expected = Session(job["model"], "cpu").embed(tissue_volume()).embedding
    assert embedding is not None
    np.testing.assert_array_equal(embedding.fine, expected.fine)
    assert embedding.grid == expected.grid
    assert (result["name"], result["modality"], result["model"], result["device"], result["notice"]) == ("chest", "ct", "tiny", "cpu", "")
    assert result["taken"] == "CT, given"
    assert len(result["fingerprint"]) == 64
    assert result["seconds"] > 0


def test_an_unknown_modality_is_guessed_and_told(job: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="chest is MR, but model tiny is for CT"):
        run(Jobs(), "embed", {**job, "volume": {**job["volume"], "modality": None}})


def test_the_model_stays_loaded_until_another_is_asked_for(job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*arguments: Any) -> Session:
        made.append(arguments)
        return Session(*arguments)

    monkeypatch.setattr(jobs_module, "Session", counted)
    jobs = Jobs()
    first = run(jobs, "embed", job)
    assert run(jobs, "embed", job)["key"] == first["key"]
    assert len(made) == 1
    run(jobs, "embed", {**job, "cache": str(tmp_path / "other")})
    assert len(made) == 2
    save_model(tiny_model(("ct",), seed=1), Path(job["model"]))  # same name, other weights
    assert run(jobs, "embed", {**job, "cache": str(tmp_path / "other")})["fingerprint"] != first["fingerprint"]
    assert len(made) == 3
    jobs.forget()
    run(jobs, "embed", job)
    assert len(made) == 4


def test_cancel_stops_between_two_layers_of_one_tile(job: dict[str, Any]) -> None:
    """The tile loop itself looks at the token before each tile only, and this is the only one."""
    jobs, cancel, texts = Jobs(), Event(), []

    def progress(fraction: float, text: str) -> None:
        texts.append(text)
        if text == "descriptors":
            cancel.set()

    with pytest.raises(Cancelled):
        run(jobs, "embed", job, progress, cancel)
    assert texts[-1] == "descriptors"
    assert run(jobs, "embed", job)["key"]


def test_a_job_cancelled_in_the_queue_does_nothing(job: dict[str, Any]) -> None:
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        run(Jobs(), "embed", {**job, "volume": None}, cancel=cancel)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("dance", {}, "There is no job 'dance'; use embed, register, import, probe or shutdown."),
        ("forget", {}, "There is no job 'forget'"),
        ("embed", {"modle": "x"}, "got an unexpected keyword argument 'modle'"),
        ("embed", {"volume": {"array": "gone.npy"}}, "cannot be read"),
        ("embed", {"model": "gone.safetensors"}, "No model 'gone.safetensors'"),
        ("embed", {"device": "cuda:7"}, "not available here"),
        ("probe", {"model": "x"}, "The probe job cannot be read"),
    ],
)
def test_wrong_jobs_are_refused_in_a_sentence(job: dict[str, Any], name: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(Jobs(), name, {**(job if name == "embed" else {}), **change})


def use_broken_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch sees a GPU but has no kernels for it. Returns the devices that sessions are made on."""
    used: list[str] = []

    def session(model: str, device: str, cache: Cache) -> Session:
        used.append(device)
        return Session(model, "cpu", cache)

    monkeypatch.setattr(jobs_module, "choose_device", lambda name: "cuda" if name in ("auto", "cuda") else name)
    monkeypatch.setattr(jobs_module, "probe_device", lambda name: DeviceProbe(name, "GPU", False, 0.1, note="no kernel image is available"))
    monkeypatch.setattr(jobs_module, "Session", session)
    return used


def test_a_gpu_that_does_not_compute_is_replaced_with_a_notice(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    used = use_broken_gpu(monkeypatch)
    jobs = Jobs()
    for _ in range(2):  # the notice is repeated by the warm model
        assert "no kernel image is available" in run(jobs, "embed", {**job, "device": "auto"})["notice"]
    assert run(jobs, "embed", {**job, "device": "cpu"})["notice"] == ""
    assert used == ["cpu", "cpu"]


def test_a_gpu_that_was_asked_for_by_name_is_never_replaced(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    use_broken_gpu(monkeypatch)
    with pytest.raises(InputError, match=r"Device cuda does not work here .no kernel image is available.. Choose the CPU"):
        run(Jobs(), "embed", {**job, "device": "cuda"})


def test_register_hands_everything_on_and_writes_the_transform(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = np.array([[0.0, -1, 0, 10], [1, 0, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]])
    seen: list[Any] = []

    class Answer:
        transform = Transform(matrix)

        def report(self) -> dict[str, Any]:
            return {"stage": "rigid", "expected_tre_mm": None}

    def register(session: Session, *arguments: Any) -> Answer:
        seen.append(arguments)
        return Answer()

    monkeypatch.setattr(Session, "register", register)
    staged = stage({"fixed": tissue_volume(name="fixed"), "moving": tissue_volume(seed=1, name="moving")}, tmp_path, 2)
    values = {
        **{k: v for k, v in job.items() if k != "volume"},
        **staged,
        "out": str(tmp_path / "result.h5"),
        "options": {"stage": "rigid"},
    }
    cancel = Event()
    result = run(Jobs(), "register", {**values, "landmarks": [[[1, 2, 3]], [[4, 5, 6]]]}, cancel=cancel)
    fixed, moving, options, _, token, landmarks = seen[0]
    assert (fixed.name, moving.name, options, landmarks) == ("fixed", "moving", RegisterOptions("rigid"), ([[1, 2, 3]], [[4, 5, 6]]))
    assert token is cancel
    assert result.pop("taken") == ["CT, given"] * 2
    assert result == {"transform": values["out"], "report": Answer().report(), "device": "cpu", "notice": ""}
    np.testing.assert_allclose(read_transform(result["transform"]).matrix, matrix, atol=1e-12)
    with pytest.raises(InputError, match=r"registration options cannot be read: .*'stages'"):
        run(Jobs(), "register", {**values, "options": {"stages": "rigid"}})


def test_register_by_landmarks_gives_the_map_from_fixed_to_moving(job: dict[str, Any], tmp_path: Path) -> None:
    turn = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])
    fixed = np.random.default_rng(0).uniform(-20, 20, (6, 3)) + [0, 48, 432]
    moving = fixed @ turn.T + [5, -7, 11]
    staged = stage({"fixed": tissue_volume(name="fixed"), "moving": tissue_volume(seed=1, name="moving")}, tmp_path, 2)
    values = {**{k: v for k, v in job.items() if k != "volume"}, **staged, "landmarks": [fixed.tolist(), moving.tolist()]}
    result = run(Jobs(), "register", {**values, "out": str(tmp_path / "map.tfm"), "options": {"stage": "rigid"}})
    np.testing.assert_allclose(read_transform(result["transform"])(fixed), moving, atol=1e-6)
    assert result["report"]["source"] == "landmarks"
    assert result["report"]["fre_mm"] < 1e-6


def test_a_weights_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UAE_MODELS", str(tmp_path / "models"))
    save_model(tiny_model(), tmp_path / "a.safetensors")
    assert run(Jobs(), "import", {"path": str(tmp_path / "a.safetensors")}) == {"model": "tiny", "notices": []}
    save(checkpoint(weights("sam")), tmp_path / "b.pth")
    result = run(Jobs(), "import", {"path": str(tmp_path / "b.pth")})
    assert result["model"] == "b" and "Unverified" in result["notices"][0]
    (tmp_path / "c.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="neither a PyTorch checkpoint"):
        run(Jobs(), "import", {"path": str(tmp_path / "c.pt")})


def test_probe_tries_every_device() -> None:
    found = run(Jobs(), "probe", {})
    assert found["devices"][0]["device"] == "cpu"
    assert found["devices"][0]["ok"]
    assert found["versions"]["torch"] == torch.__version__


def test_through_a_real_worker(job: dict[str, Any]) -> None:
    client = WorkerClient()
    keys = []
    for _ in range(2):
        number = client.submit({**job, "job": "embed", "volume": tissue_volume(name="chest")})
        events, limit = [], time.monotonic() + 120
        while not events or isinstance(events[-1], Progress):
            assert time.monotonic() < limit, (events, client.log())
            events += client.poll()
            time.sleep(0.01)
        assert isinstance(events[-1], Done), events[-1]
        assert events[-1].job == number
        keys.append(events[-1].result["key"])
        texts = [e.text for e in events if isinstance(e, Progress)]
        assert ("loading the model" in texts) == ("local features" in texts) == (len(keys) == 1)
    client.close()
    assert keys[0] == keys[1] == run(Jobs(), "embed", job)["key"]

"""Jobs go to the worker and their answers to whoever asked; embeddings come back through the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import requires

requires.needs_mrml()

import slicer  # noqa: E402
from fake_engine import FakeEngine  # noqa: E402
from job_client import Client  # noqa: E402
from samples import tiny_model, tissue  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.embedding.cache import Cache  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.models.model import save_model  # noqa: E402
from UniversalAnatomicalEmbeddingLib.session import Session  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.preparation import Preparation  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.workbench import Workbench  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker.client import Cancelled, Done, Failed  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker.desk import Desk  # noqa: E402


def scene_with(*names: str) -> tuple[Any, list[Any]]:
    scene = slicer.vtkMRMLScene()
    array, grid = tissue((32, 32, 32)), Grid((32, 32, 32), np.diag([2.0, 2, 2, 1]))
    return scene, [mrml.volume_to_node(scene, Volume(array, grid, "ct", n)) for n in names]


def test_a_job_is_not_given_twice_and_a_volume_that_cannot_be_taken_fails_alone() -> None:
    scene, nodes = scene_with("A", "B")
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    bench, client = Workbench(scene), Client()
    preparation = Preparation(bench, Desk(client), lambda result: (FakeEngine(), None))
    assert preparation.start() == 3 and len(client.jobs) == 2
    assert preparation.start() == 1 and len(client.jobs) == 2
    assert "has no voxels" in bench.presenter.readiness.status(empty.GetID()).reason
    assert bench.presenter.readiness.status(nodes[0].GetID()).state == "preparing"
    bench.close()


def test_cancelling_brings_back_what_was_ready_before() -> None:
    scene, nodes = scene_with("A", "B")
    bench, client, engine = Workbench(scene), Client(), FakeEngine()
    preparation = Preparation(bench, Desk(client), lambda result: (engine, client.jobs[0]["volume"]))
    result = {"model": "m", "fingerprint": "f", "device": "cpu", "notice": "The GPU was not used."}
    said: list[str] = []
    preparation._notice = said.append
    preparation.start([nodes[0].GetID()])
    client.events = [Done(1, result)]
    preparation.desk.poll()
    assert said == ["The GPU was not used."] and bench.provenance["Model"] == "m" and bench.provenance["ModelSha256"] == "f"
    preparation.start([n.GetID() for n in nodes])
    preparation.cancel()
    client.events = [Cancelled(n) for n in client.cancelled]
    preparation.desk.poll()
    assert [bench.presenter.readiness.status(n.GetID()).state for n in nodes] == ["ready", "not prepared"]
    bench.close()


def test_what_a_model_made_that_is_no_longer_chosen_does_not_count() -> None:
    scene, nodes = scene_with("A", "B")
    bench, client, engine = Workbench(scene), Client(), FakeEngine()
    preparation = Preparation(bench, Desk(client), lambda result: (engine, client.jobs[0]["volume"]))
    preparation.start([n.GetID() for n in nodes], "before")
    bench.presenter.set_model("after")
    client.events = [Done(1, {"model": "before", "fingerprint": "f", "device": "cpu", "notice": ""}), Failed(2, "It is for CT.")]
    preparation.desk.poll()
    assert [bench.presenter.readiness.status(n.GetID()).state for n in nodes] == ["not prepared"] * 2 and bench.scans.engine is None
    assert preparation.start(model="after") == 2 and [j["model"] for j in client.jobs[2:]] == ["after"] * 2
    bench.close()


def test_the_worker_answers_through_the_cache(tmp_path: Path) -> None:
    """The real loader: an embedding that another process stored is found, searched, and missed when it was evicted."""
    weights = tmp_path / "tiny.safetensors"
    save_model(tiny_model(), weights)
    scene, nodes = scene_with("A", "B")
    bench, client = Workbench(scene), Client()
    preparation = Preparation(bench, Desk(client))
    preparation.start(model=str(weights), device="cpu")
    worker = Session(str(weights), "cpu", Cache(tmp_path / "cache"))
    for number, job in enumerate(client.jobs, 1):
        key, embedding = worker.embed_stored(job["volume"])
        result = {"cache": str(tmp_path / "cache"), "key": key, "name": embedding.name, "model": "tiny", "fingerprint": worker.fingerprint}
        client.events.append(Done(number, {**result, "device": "cpu", "notice": ""}))
    preparation.desk.poll()
    assert [bench.presenter.readiness.status(n.GetID()).state for n in nodes] == ["ready", "ready"]
    key = bench.add("p", [30.0, 31.0, 33.0])
    off = np.subtract(bench.world(key, nodes[1].GetID()), [30, 31, 33])
    assert np.abs(off).max() <= 4.0, "both scans are the same; the network is random, so one cell on each axis"
    bench.scans.similarity([30.0, 31.0, 33.0], nodes[1].GetID(), scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "map"))
    preparation.start([nodes[1].GetID()], str(weights), "cpu")
    Cache(tmp_path / "cache").clear()
    client.events = [Done(3, {**result, "device": "cpu", "notice": ""})]
    preparation.desk.poll()
    assert "not in the cache any more" in bench.presenter.readiness.status(nodes[1].GetID()).reason
    bench.close()

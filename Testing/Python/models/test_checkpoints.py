"""Checkpoints: every form of the released layout is read, nothing else is, and nothing in a file is ever run."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from released import checkpoint, save, weights
from safetensors.torch import save_file

from UniversalAnatomicalEmbeddingLib.models import checkpoints as module
from UniversalAnatomicalEmbeddingLib.models.checkpoints import read_checkpoint
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "as released": checkpoint,
    "bare": lambda state: state,
    "state_dict alone": lambda state: {"state_dict": state},
    "data parallel": lambda state: checkpoint({f"module.{k}": v for k, v in state.items()}),
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}
RAN: list[str] = []


def refused(path: Path, *words: str, family: Any = None) -> None:
    before = {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    with pytest.raises(InputError) as caught:
        read_checkpoint(path, family)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message, message
    assert {p: p.stat().st_mtime_ns for p in path.parent.iterdir()} == before


# --- what is read ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_form_of_the_layout_gives_the_same_weights(form: str, zipped: bool, tmp_path: Path) -> None:
    state = weights("sam")
    found = read_checkpoint(save(FORMS[form](state), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped))
    assert found.family == "sam"
    assert found.weights.keys() == state.keys()
    for name, value in found.weights.items():
        if form == "without counters" and name.endswith("num_batches_tracked"):
            assert value == 0 and value.dtype == torch.int64
        else:
            assert value.is_contiguous() and value.dtype == state[name].dtype
            assert torch.equal(value, state[name]), name


def test_weights_in_safetensors_are_read(tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in weights("sam").items()}
    save_file(state, tmp_path / "a.safetensors")
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in found.weights.items())


@pytest.mark.parametrize("family", ["sam", "uae-s", "uae-m"])
def test_family_is_told_from_the_weights(family: str, tmp_path: Path) -> None:
    path = save(checkpoint(weights(family)), tmp_path / "a.pth")
    found = read_checkpoint(path)
    assert found.family == family and found.reason
    assert any(k.startswith("semantic_head.") for k in found.weights) == (family == "uae-s"), "untrained heads are left out"


def test_family_can_be_given(tmp_path: Path) -> None:
    trained = save(checkpoint(weights("uae-s")), tmp_path / "a.pth")
    found = read_checkpoint(trained, "uae-m")
    assert found.family == "uae-m" and not any(k.startswith("semantic_head.") for k in found.weights)
    headless = save(weights("sam"), tmp_path / "b.pth")
    assert read_checkpoint(headless, "uae-m").family == "uae-m"
    refused(trained, "has a semantic head", "--family", family="sam")
    refused(headless, "no semantic head", "--family", family="uae-s")


# --- what is not ----------------------------------------------------------------------------------------------------------------------


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RAN.append, ("ran",)


class Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("thing", "name"), [(Shell(), "system"), (Evil(), "getattr"), (np.float64(3), "numpy"), (Path("a"), "pathlib")])
def test_a_file_that_would_run_something_is_refused_by_its_name(zipped: bool, thing: Any, name: str, tmp_path: Path) -> None:
    content = checkpoint(weights("sam"))
    content["meta"]["extra"] = thing
    refused(
        save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped),
        name,
        "never done here",
        "torch.save({'state_dict'",
        "Then import",
    )
    assert RAN == []


def change(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {**state, name: value}


KERNEL, NORM = "backbone.layer2.0.conv1.conv.weight", "backbone.layer3.0.conv2.bn.running_var"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if k != KERNEL}, [KERNEL, "missing", "1 of its tensors"]),
        (change("fc.weight", torch.zeros(3)), ["fc.weight", "not expected"]),
        (change(KERNEL, torch.zeros(128, 64, 3, 3, 3)), [KERNEL, "128x64x3x3x3 float32", "expected 128x64x1x3x3 float32"]),
        (change(KERNEL, torch.zeros(128, 64, 1, 3, 3, dtype=torch.float64)), [KERNEL, "float64", "float32"]),
        (change(KERNEL, torch.zeros(128, 64, 1, 3, 3, dtype=torch.float16)), [KERNEL, "float16"]),
        (change(KERNEL, torch.zeros(128, 64, 1, 3, 3).to_sparse()), [KERNEL, "sparse"]),
        (change(NORM, torch.full((256,), torch.nan)), [NORM, "damaged"]),
        (change(NORM, torch.full((256,), -1.0)), [NORM, "negative variance"]),
        (change(KERNEL, "text"), [KERNEL, "a str"]),
        (change(7, torch.zeros(3)), ["7"]),
        (lambda s: {}, ["empty"]),
        (lambda s: {f"encoder.{k}": v for k, v in s.items()}, ["not a sam checkpoint", "255 of its tensors"]),
    ],
    ids=["missing", "extra", "shape", "double", "half", "sparse", "nan", "variance", "text", "number", "nothing", "other names"],
)
def test_weights_of_another_layout_are_refused(spoil: Callable[[dict[str, Any]], dict[str, Any]], words: list[str], tmp_path: Path) -> None:
    refused(save(checkpoint(spoil(weights("sam"))), tmp_path / "a.pth"), *words)


@pytest.mark.parametrize("content", [[1, 2], "text", torch.zeros(3), {"state_dict": [1]}, 7])
def test_content_that_is_no_dictionary_is_refused(content: Any, tmp_path: Path) -> None:
    refused(save(content, tmp_path / "a.pth"), "not named weights")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_file_is_refused(share: float, zipped: bool, tmp_path: Path) -> None:
    path = save(checkpoint(weights("sam")), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path)


def test_flipped_bit_is_noticed(tmp_path: Path) -> None:
    marker = torch.full((64,), 1.2345)
    path = save(checkpoint({**weights("sam"), "backbone.conv1.bn.bias": marker}), tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    data[data.index(marker.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    refused(path, "checksum", "damaged")


def zip_with(path: Path, compression: int, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_with(tmp_path / "a.pth", zipfile.ZIP_DEFLATED, {"archive/data.pkl": b"\x80\x02.", "archive/data/0": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was opened"))
    refused(path, "compressed archive", "50000003")


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The other kind of zip bomb: a directory that names the same stored bytes again and again."""
    path = zip_with(tmp_path / "a.pth", zipfile.ZIP_STORED, {"archive/data.pkl": b"\x80\x02.", "archive/data/0": bytes(100_000)})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    records = data[start:end]
    second = records[records.index(b"PK\x01\x02", 4) :]
    tail = bytearray(data[end:])
    count = 40
    tail[8:12] = (count + 1).to_bytes(2, "little") * 2
    tail[12:16] = (len(records) + (count - 1) * len(second)).to_bytes(4, "little")
    path.write_bytes(data[:start] + records + (count - 1) * second + tail)
    refused(path, "compressed archive")


def test_huge_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_PICKLE", 1000)
    refused(save(weights("sam"), tmp_path / "a.pth"), "index")


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    refused(path, "3.0 GiB")


def test_a_small_tensor_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    refused(save({**weights("sam"), KERNEL: torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pth"), KERNEL, "1000000x1000000")


@pytest.mark.parametrize("content", [b"PK\x03\x04 not really", b"\x80\x02]q", b"SIMPLE nonsense", bytes(1000), b"\x80"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    refused(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_archives_are_refused(tmp_path: Path) -> None:
    refused(zip_with(tmp_path / "a.pth", zipfile.ZIP_STORED, {"word/document.xml": b"<xml/>"}), "without data.pkl")
    program = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), program)
    (tmp_path / "b.pth").write_bytes(program.getvalue())
    refused(tmp_path / "b.pth", "TorchScript")

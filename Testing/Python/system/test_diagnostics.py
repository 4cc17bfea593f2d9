"""Device probe and the text of the diagnostics box."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from UniversalAnatomicalEmbeddingLib.system.diagnostics import DeviceProbe, diagnostics_text, probe_device, versions

GIB = 2**30
FOUND = {
    "versions": {"Python": "3.12.1", "torch": "2.13.0", "vtk": ""},
    "torch_build": {"cuda": "12.8", "kernels": "sm_80 sm_90", "threads": 8},
    "devices": [
        asdict(DeviceProbe("cpu", "x86_64", True, 0.012)),
        asdict(DeviceProbe("cuda:0", "Some GPU", False, 0.5, 8 * GIB, 6 * GIB, "no kernel image is available")),
    ],
}


def test_the_report_says_everything() -> None:
    text = diagnostics_text(FOUND, "/home/x/.cache/uae", [("a", GIB, 1.0), ("b", GIB // 2, 2.0)], 20 * GIB, "last\nwords")
    assert text == (
        "Python  3.12.1\n"
        "torch   2.13.0\n"
        "vtk     not installed\n"
        "torch build  CUDA 12.8, 8 threads, GPU kernels: sm_80 sm_90\n"
        "cpu     x86_64, works (0.01 s)\n"
        "cuda:0  Some GPU, 6.0 of 8.0 GiB free, does not work: no kernel image is available\n"
        "cache   2 scans, 1.50 of 20 GiB, /home/x/.cache/uae\n"
        "\n"
        "worker:\n"
        "last\n"
        "words"
    )


def test_the_report_works_without_torch() -> None:
    text = diagnostics_text({"versions": versions()}, "/c", [], GIB)
    assert f"torch{' ' * 25}{torch.__version__}" in text
    assert text.endswith("0 scans, 0.00 of 1 GiB, /c")
    assert "worker:" not in text


def test_importing_it_loads_no_package() -> None:
    code = (
        "import sys, UniversalAnatomicalEmbeddingLib.system.diagnostics as d, UniversalAnatomicalEmbeddingLib.system.dependencies as e;"
        "d.versions(); e.find_problems(); print([m for m in ('torch', 'numpy', 'scipy', 'SimpleITK') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_cpu_computes() -> None:
    found = probe_device("cpu")
    assert (found.ok, found.note) == (True, "")
    assert found.title


def test_a_device_that_raises_is_reported_in_one_line() -> None:
    found = probe_device("cuda" if not torch.cuda.is_available() else "cuda:99")
    assert not found.ok
    assert found.note
    assert "\n" not in found.note


def test_a_device_that_computes_nonsense_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.nn.functional.conv3d, []

    def wrong_at_first(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(*arguments) * (1.1 if len(calls) == 1 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "conv3d", wrong_at_first)
    found = probe_device("cpu")
    assert not found.ok
    assert found.note.startswith("it computes wrong results")

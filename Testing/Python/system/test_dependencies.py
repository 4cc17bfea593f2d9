"""What is missing, what is asked, and who is asked to install it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from UniversalAnatomicalEmbeddingLib.system.dependencies import (
    NEVER_INSTALLED,
    REQUIREMENTS,
    Problem,
    Requirement,
    SlicerInstaller,
    find_problems,
    install,
    installed_version,
    offline_text,
    question,
)
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

NAMES = {r.name: r for r in REQUIREMENTS}
GOOD = {"torch": "2.13.0+cpu", "scipy": "1.17.1", "safetensors": "0.4", "numpy": "2.0.2", "SimpleITK": "2.5.0"}


def problems(**changes: str | None) -> list[Problem]:
    return find_problems({**GOOD, **changes}.get)


class Recorder:
    """An installer that makes what it is asked for appear."""

    def __init__(self) -> None:
        self.versions: dict[str, str | None] = dict(GOOD)
        self.torch: list[str] = []
        self.others: list[list[str]] = []

    def install_torch(self, requirement: Requirement) -> None:
        self.torch.append(str(requirement))
        self.versions["torch"] = "2.13.0"

    def install(self, requirements: Any) -> None:
        self.others.append([str(r) for r in requirements])
        self.versions.update({r.name: r.minimum for r in requirements})


def test_nothing_is_wrong_here() -> None:
    assert find_problems() == []
    assert problems() == []


@pytest.mark.parametrize("version", ["2.4", "2.4.0", "2.4.1+cu128", "2.10.0", "3.0", "2.4.0rc1"])
def test_new_enough(version: str) -> None:
    assert problems(torch=version) == []


@pytest.mark.parametrize("version", ["2.3.1", "1.13.1+cu117", "0.4", "2", "nonsense", None])
def test_too_old_or_missing(version: str | None) -> None:
    assert problems(torch=version) == [Problem(NAMES["torch"], version)]


def test_slicers_own_without_a_version_counts_as_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(SimpleITK="") == []
    assert installed_version("no_such_package") is None
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert installed_version("SimpleITK") == ""
    assert installed_version("torch") is None  # a folder without a version is what a broken installation leaves


def test_the_question_names_what_and_why() -> None:
    asked = question(problems(torch=None, scipy="1.2"))
    assert "torch 2.4 or newer (missing), scipy 1.11 or newer (found 1.2)" in asked
    assert "PyTorch is a download of" in asked
    assert "download" not in question(problems(scipy=None))


def test_each_goes_to_its_installer_once() -> None:
    recorder = Recorder()
    recorder.versions.update(torch=None, scipy=None, safetensors="0.1")
    install(find_problems(recorder.versions.get), recorder, recorder.versions.get)
    assert recorder.torch == ["torch>=2.4"]
    assert recorder.others == [["scipy>=1.11", "safetensors>=0.4"]]


@pytest.mark.parametrize("name", ["numpy", "SimpleITK"])
def test_slicers_own_packages_are_never_installed(name: str) -> None:
    recorder = Recorder()
    recorder.versions.update({name: "0.1", "scipy": None})
    found = find_problems(recorder.versions.get)
    for call in (lambda: question(found), lambda: install(found, recorder, recorder.versions.get)):
        with pytest.raises(InputError, match=rf"{name} .* comes with Slicer and is never replaced. Install Slicer 5.10"):
            call()
    assert recorder.torch == recorder.others == []
    assert f'"{name}' not in offline_text(found)
    assert {r.name for r in REQUIREMENTS if r.provider != "slicer"}.isdisjoint(NEVER_INSTALLED)


def test_an_installation_without_effect_is_reported_with_the_way_out() -> None:
    recorder = Recorder()
    recorder.versions["torch"] = None
    with pytest.raises(InputError, match=r"still wrong: torch 2.4 or newer .missing.. Restart Slicer") as error:
        install(problems(torch=None), recorder, {**GOOD, "torch": None}.get)
    assert "pip download" in str(error.value)


def test_offline_text_uses_this_python_and_only_what_is_missing() -> None:
    text = offline_text(problems(torch=None), "/opt/Slicer/bin/PythonSlicer")
    assert '"/opt/Slicer/bin/PythonSlicer" -m pip install --no-index --find-links wheels "torch>=2.4"' in text
    assert "scipy" not in text
    assert offline_text([]) == ""


class Slicer:
    """Modules of a Slicer by name, and the calls that were made to them."""

    def __init__(self, *names: str, failing: Exception | None = None, torch: Any = "torch") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing = failing

        def called(module: str, result: Any = None) -> Any:
            def call(*arguments: Any, **keywords: Any) -> Any:
                self.calls.append((module, arguments, keywords))
                if failing:
                    raise failing
                return result

            return call

        logic = SimpleNamespace(installTorch=called("PyTorchUtils", torch))
        known = {
            "PyTorchUtils": SimpleNamespace(PyTorchUtilsLogic=lambda: logic),
            "slicer.util": SimpleNamespace(pip_install=called("slicer.util")),
            "slicer.packaging": SimpleNamespace(pip_install=called("slicer.packaging")),
            "slicer.pydeps": SimpleNamespace(pip_install=called("slicer.pydeps")),
        }
        self.modules = {name: known[name] for name in names}

    def load(self, name: str) -> Any:
        if name not in self.modules:
            raise ImportError(name)
        return self.modules[name]


def test_torch_comes_through_its_extension() -> None:
    slicer = Slicer("PyTorchUtils", "slicer.util")
    SlicerInstaller(slicer.load).install_torch(NAMES["torch"])
    assert slicer.calls == [("PyTorchUtils", (), {"askConfirmation": False, "torchVersionRequirement": ">=2.4"})]


def test_without_the_extension_it_says_where_to_get_it() -> None:
    slicer = Slicer("slicer.util")
    with pytest.raises(InputError, match=r"extension PyTorch is needed .* Extensions Manager"):
        SlicerInstaller(slicer.load).install_torch(NAMES["torch"])
    assert slicer.calls == []


def test_an_unsuccessful_torch_installation_is_a_sentence() -> None:
    with pytest.raises(InputError, match="torch was not installed"):
        SlicerInstaller(Slicer("PyTorchUtils", torch=None).load).install_torch(NAMES["torch"])


@pytest.mark.parametrize("name", ["slicer.pydeps", "slicer.packaging"])
def test_newer_slicers_protect_their_own_packages(name: str) -> None:
    slicer = Slicer("slicer.util", name)
    SlicerInstaller(slicer.load).install([NAMES["scipy"], NAMES["safetensors"]])
    ((module, arguments, keywords),) = slicer.calls
    assert (module, arguments) == (name, (["scipy>=1.11", "safetensors>=0.4"],))
    assert set(keywords["skip_packages"]) == {"SimpleITK", "numpy", "vtk"}
    assert keywords["requester"] == "UniversalAnatomicalEmbedding"


def test_older_slicers_install_without_dependencies() -> None:
    slicer = Slicer("slicer.util")
    SlicerInstaller(slicer.load).install([NAMES["scipy"]])
    assert slicer.calls == [("slicer.util", (["scipy>=1.11", "--no-deps"],), {})]


@pytest.mark.parametrize("failure", [subprocess.CalledProcessError(1, "pip"), RuntimeError("declined"), OSError("no pip")])
def test_failures_of_pip_are_sentences(failure: Exception) -> None:
    slicer = Slicer("slicer.util", "PyTorchUtils", failing=failure)
    for call in (lambda s: s.install([NAMES["scipy"]]), lambda s: s.install_torch(NAMES["torch"])):
        with pytest.raises(InputError, match=r"could not be installed .* or install offline"):
            call(SlicerInstaller(slicer.load))


def test_the_oldest_versions_agree_with_the_package() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
    declared = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", d).groups() for d in project["dependencies"])  # type: ignore[union-attr]
    assert {r.name: r.minimum for r in REQUIREMENTS} == {name: declared[name] for name in NAMES}

"""What Slicer's build and the Extensions Index read: the lists agree with the files, the metadata with their rules, and CMake accepts it all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cmake import CMAKE_BIN_DIR
from PIL import Image

from UniversalAnatomicalEmbeddingLib.system.dependencies import REQUIREMENTS

ROOT = Path(__file__).resolve().parents[2]
NAME = "UniversalAnatomicalEmbedding"
MODULE = ROOT / NAME
CMAKE = Path(CMAKE_BIN_DIR) / "cmake"
NOT_PACKAGED = (f"{NAME}Web/", "__pycache__/", ".ruff_cache/", ".egg-info/")
TOP = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")

# The Index reads the top-level file with expressions like these (name, icon and screenshots; each value on one line).
PROJECT = re.compile(r"project\s*\(\s*([^\s)]+)", re.IGNORECASE)
ICON = re.compile(r'set\s*\(EXTENSION_ICONURL\s*"([^"]+)" *\)', re.IGNORECASE)
SCREENSHOTS = re.compile(r'set\s*\(EXTENSION_SCREENSHOTURLS\s*"([^"]+)"\)', re.IGNORECASE)
RAW = re.compile(r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([^/]+)/(.+)")

SLICER_STANDIN = """
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/nothing.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/nothing.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/nothing.cmake")
enable_testing()
set(BUILD_TESTING ON)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(M "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(M_UNPARSED_ARGUMENTS OR NOT M_WITH_GENERIC_TESTS)
    message(FATAL_ERROR "wrong arguments: ${M_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file IN LISTS M_SCRIPTS M_RESOURCES)
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      message(FATAL_ERROR "no such file: ${file}")
    endif()
  endforeach()
  message(STATUS "MODULE ${M_NAME}")
  foreach(file IN LISTS M_SCRIPTS)
    message(STATUS "SCRIPT ${file}")
  endforeach()
  foreach(file IN LISTS M_RESOURCES)
    message(STATUS "RESOURCE ${file}")
  endforeach()
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(T "" "SCRIPT" "" ${ARGN})
  message(STATUS "UNITTEST ${T_SCRIPT}")
endmacro()
foreach(name HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  message(STATUS "${name} ${EXTENSION_${name}}")
endforeach()
"""


OUTER = """
cmake_minimum_required(VERSION 3.16)
project(outer NONE)
macro(project)  # no search for compilers, which nothing here needs
endmacro()
add_subdirectory("{source}" inner)
"""


def run_cmake(source: Path, build: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(CMAKE), "-S", str(source), "-B", str(build), "-Wno-dev", *definitions], capture_output=True, text=True)


def configure(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the real CMake on the extension's files, with a stand-in for the Slicer package."""
    (folder / "SlicerConfig.cmake").write_text(SLICER_STANDIN)
    (folder / "nothing.cmake").write_text("")
    (folder / "CMakeLists.txt").write_text(OUTER.format(source=source.as_posix()))
    return run_cmake(folder, folder / "build", f"-DSlicer_DIR={folder}")


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines "WORD rest" that the stand-in printed while CMake read the files."""
    result = configure(ROOT, tmp_path_factory.mktemp("cmake"))
    assert result.returncode == 0, result.stderr
    return [line.removeprefix("-- ") for line in result.stdout.splitlines() if line.startswith("-- ")]


def values(lines: list[str], word: str) -> list[str]:
    return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]


def on_disk() -> list[str]:
    names = sorted(str(p.relative_to(MODULE).as_posix()) for p in MODULE.rglob("*") if p.is_file() and p != MODULE / "CMakeLists.txt")
    return [name for name in names if not any(part in name for part in NOT_PACKAGED) and not name.endswith((".pyc", ".part"))]


def test_every_script_is_listed_and_nothing_else(configured: list[str]) -> None:
    assert sorted(values(configured, "SCRIPT")) == [name for name in on_disk() if name.endswith(".py")]


def test_every_resource_is_listed_and_nothing_else(configured: list[str]) -> None:
    assert sorted(values(configured, "RESOURCE")) == [name for name in on_disk() if not name.endswith(".py")]


def test_module_and_its_self_test_are_registered(configured: list[str]) -> None:
    assert values(configured, "MODULE") == [NAME]
    assert values(configured, "UNITTEST") == [f"{NAME}.py"]


def test_a_missing_file_is_seen(tmp_path: Path) -> None:
    """The stand-in would be worth nothing if it accepted a list that is wrong."""
    copy = tmp_path / "copy"
    shutil.copytree(MODULE, copy / NAME, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "*.safetensors"))
    shutil.copytree(ROOT / "Testing", copy / "Testing", ignore=shutil.ignore_patterns("*.py", "*.json", "__pycache__"))
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    result = configure(copy, tmp_path)
    assert result.returncode != 0
    assert "no such file" in result.stderr


def test_index_finds_name_and_pictures() -> None:
    assert PROJECT.findall(TOP)[0] == NAME
    assert not NAME.lower().startswith("slicer")
    urls = [ICON.findall(TOP)[0], *SCREENSHOTS.findall(TOP)[0].split()]
    assert len(urls) >= 2
    for url in urls:
        found = RAW.fullmatch(url)
        assert found, url
        assert (ROOT / found[3]).is_file(), f"{url} names no file of the repository"


def test_one_address_is_used_everywhere(configured: list[str]) -> None:
    entry = json.loads((ROOT / "Resources" / f"{NAME}.json").read_text())
    homepage = values(configured, "HOMEPAGE")[0]
    urls = [ICON.findall(TOP)[0], *SCREENSHOTS.findall(TOP)[0].split()]
    assert entry["scm_url"] == f"{homepage}.git"
    assert {RAW.fullmatch(url)[1] for url in urls} == {homepage.removeprefix("https://github.com/")}  # type: ignore[index]
    assert {RAW.fullmatch(url)[2] for url in urls} == {entry["scm_revision"]}  # type: ignore[index]
    assert "slicer" in homepage.rpartition("/")[2].lower()


def test_metadata_is_complete(configured: list[str]) -> None:
    description = values(configured, "DESCRIPTION")[0]
    assert 40 < len(description) < 400
    assert "\n" not in description
    assert values(configured, "CONTRIBUTORS")[0]
    assert values(configured, "DEPENDS") == ["PyTorch"]


def test_catalogue_entry_fits_the_schema(configured: list[str]) -> None:
    """Keys and types of slicer-extension-catalog-entry-schema-v1.0.1, which allows no others."""
    path = ROOT / "Resources" / f"{NAME}.json"
    entry = json.loads(path.read_text())
    kinds = {
        "$schema": str,
        "build_dependencies": list,
        "build_subdirectory": str,
        "category": str,
        "enabled": bool,
        "scm_revision": str,
        "scm_url": str,
        "tier": int,
    }
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= kinds.keys()
    assert all(isinstance(value, kinds[key]) for key, value in entry.items())
    assert entry["category"] == values(configured, "CATEGORY")[0]
    assert entry["build_dependencies"] == values(configured, "DEPENDS")[0].split()


@pytest.mark.parametrize("path", [f"Resources/{NAME}.png", f"{NAME}/Resources/Icons/{NAME}.png"])
def test_icon_is_a_square_of_128_with_transparent_corners(path: str) -> None:
    with Image.open(ROOT / path) as icon:
        assert icon.size == (128, 128)
        assert icon.mode == "RGBA"
        assert icon.getpixel((0, 0))[3] == 0  # type: ignore[index]
        assert len(icon.convert("RGB").getcolors(128 * 128) or ()) > 50


def test_licence_is_in_the_root() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_requirements_file_is_what_pip_would_install() -> None:
    lines = (MODULE / "Resources" / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed == [str(r) for r in REQUIREMENTS if r.provider == "pip"]


def test_ctest_runs_every_test_file(tmp_path: Path) -> None:
    result = run_cmake(ROOT / "Testing", tmp_path / "build", f"-DUAE_TEST_PYTHON={sys.executable}")
    assert result.returncode == 0, result.stderr
    listed = subprocess.run(
        [str(CMAKE.with_name("ctest")), "--show-only=json-v1", "--test-dir", str(tmp_path / "build")],
        capture_output=True,
        text=True,
        check=True,
    )
    tests = json.loads(listed.stdout)["tests"]
    assert {t["name"] for t in tests} == {
        "uae_" + "_".join(p.relative_to(Path(__file__).parent).with_suffix("").parts) for p in Path(__file__).parent.rglob("test_*.py")
    }
    assert tests[0]["command"][:3] == [sys.executable, "-m", "pytest"]
    assert (ROOT / tests[0]["command"][3]).is_file()

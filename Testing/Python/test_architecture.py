"""The house rules: who may import whom, how big things get, what is documented and what is tested."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "UniversalAnatomicalEmbedding" / "UniversalAnatomicalEmbeddingLib"
TESTS = Path(__file__).parent
SOURCES = sorted(p for p in PACKAGE.rglob("*.py"))
TRAINING = sorted((REPOSITORY / "training").rglob("*.py"))
WEB = sorted((PACKAGE.parent / "UniversalAnatomicalEmbeddingWeb").glob("*.py"))

# A module imports only from the layers before its own; those of one folder may import each other.
LAYERS = (
    {"", "errors", "progress", "language", "geometry", "tiling", "phantom_shapes"},
    {
        "download",
        "folders",
        "hounsfield",
        "padding",
        "patient",
        "options",
        "nifti_header",
        "dicom_series",
        "points",
        "phantom_skeleton",
        "networks",
        "worker_process",
        "diagnostics",
        "entries",
        "dependencies",
    },
    {"volume", "phantom_anatomy", "table", "readiness", "choices"},
    {"preprocess", "phantom", "messages", "modality"},
    {"search_space"},
    {"catalogue", "checkpoints"},
    {"releases"},
    {"embedding"},
    {"cache", "matching"},
    {"registration"},
    {"session"},
    {"evaluation", "jobs"},
    {"viz", "presenter", "worker", "worker_client", "mrml", "observers"},
    {"views", "desk", "transform_node"},
    {"scans", "lists"},
    {"workbench"},
    {"live", "preparation", "registering"},
    {"cli_models", "cli_register", "cli_scans", "cli_serve"},
    {"cli"},
)
FOREIGN = {"slicer", "qt", "ctk", "vtk", "training"}
# The files that know MRML nodes; they are given the scene and never ask the application for it.
BRIDGE = {"lists", "live", "mrml", "observers", "registering", "scans", "transform_node", "views", "workbench"}
# Files whose test does not have their name; all others have test_<file>.py or test_<folder>.py.
TESTED_BY = {
    "__init__": "test_architecture",
    "desk": "test_preparation",
    "entries": "test_catalogue",
    "lists": "test_workbench",
    "live": "test_workbench",
    "observers": "test_workbench",
    "readiness": "test_presenter",
    "scans": "test_workbench",
    "transform_node": "test_registering",
    "views": "test_workbench",
    "cli_models": "test_releases",
    "errors": "test_catalogue",
    "progress": "test_embedding",
    "options": "test_session",
    "cli_serve": "test_web_server",
    "worker_process": "test_worker_client",
    "nifti_header": "test_volume",
    "phantom_anatomy": "test_phantom",
    "phantom_shapes": "test_phantom",
    "phantom_skeleton": "test_phantom",
}
SMALL_FILE, SMALL_FUNCTION, SMALL_CLASS, MOST_NAMES, MOST_BYTES = 400, 60, 200, 12, 16 * 2**20

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(path: Path) -> str:
    """Module name inside the package: "matching.nearest", "matching" for its __init__, "" for that of the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {dotted(p): p for p in SOURCES}


def imports(path: Path, own: bool) -> set[str]:
    """What a file imports anywhere in it: modules of the package (``own``), or the names of other top-level packages."""
    inside, outside = set(), set()
    folder = list(path.relative_to(PACKAGE).parts[:-1]) if path.is_relative_to(PACKAGE) else []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
            inside |= {alias.name.removeprefix(f"{PACKAGE.name}.") for alias in node.names if alias.name.startswith(f"{PACKAGE.name}.")}
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level == 0:
                outside.add(base[0])
            if node.level == 0 and base[0] != PACKAGE.name:
                continue
            start = base[1:] if node.level == 0 else folder[: len(folder) - node.level + 1] + base
            name = ".".join(start)
            below = {f"{name}.{alias.name}".lstrip(".") for alias in node.names}
            inside |= (below & MODULES.keys()) | ({name} if below - MODULES.keys() else set())
    return inside if own else outside - {PACKAGE.name}


def layer(module: str) -> int:
    found = [n for n, names in enumerate(LAYERS) if module.partition(".")[0] in names]
    assert found, f"{module} has no place in the order of the layers: give it one in LAYERS"
    return found[0]


def definitions(path: Path) -> Iterator[tuple[str, ast.ClassDef | None, ast.ClassDef | Function]]:
    """Name, class around it and node of all functions and classes at module or class level."""
    for node in parsed(path).body:
        if isinstance(node, ast.ClassDef | Function):
            yield node.name, None, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.ClassDef | Function):
                    yield f"{node.name}.{inner.name}", node, inner


def lines(node: ast.ClassDef | Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


BASES = {
    name: {ast.unparse(b).rpartition(".")[2] for b in node.bases}
    for p in SOURCES
    for name, _, node in definitions(p)
    if isinstance(node, ast.ClassDef)
}
DOCUMENTED = {name for p in SOURCES for name, _, node in definitions(p) if ast.get_docstring(node)}


def is_documented(name: str, around: ast.ClassDef | None, node: ast.ClassDef | Function) -> bool:
    """A method may leave it to the method that it overrides; ``forward`` to its class."""
    if ast.get_docstring(node) or name in DOCUMENTED or around is None:
        return ast.get_docstring(node) is not None
    return node.name == "forward" or any(f"{base}.{node.name}" in DOCUMENTED for base in BASES.get(around.name, ()))


def missing_annotations(node: Function, is_method: bool) -> list[str]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    is_static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
    named = [a for a in arguments if a is not None][1 if is_method and not is_static else 0 :]
    return [a.arg for a in named if a.annotation is None] + (["return"] if node.returns is None else [])


# --- imports --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    here = layer(module)
    folder = module.partition(".")[0]
    upwards = {other for other in imports(MODULES[module], own=True) if other.partition(".")[0] != folder and layer(other) >= here}
    assert upwards == set()


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module: imports(path, own=True) - {module} for module, path in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) >= MODULES.keys()


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_core_knows_neither_slicer_nor_training(path: Path) -> None:
    allowed = {"slicer", "vtk"} if dotted(path) in BRIDGE else set()
    assert imports(path, own=False) & FOREIGN - allowed == set()


@pytest.mark.parametrize("module", sorted(BRIDGE & MODULES.keys()))
def test_bridge_imports_slicer_late_and_never_asks_the_application(module: str) -> None:
    tree = parsed(MODULES[module])
    at_top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "slicer"}
    assert at_top & {"slicer", "vtk"} == set()
    assert used & {"app", "mrmlScene", "modules", "util"} == set()


def test_pictures_are_drawn_by_the_command_line_only() -> None:
    users = {module for module, path in MODULES.items() if "viz" in imports(path, own=True)} | {
        str(p) for p in TRAINING if any("viz" in ast.unparse(n) for n in ast.walk(parsed(p)) if isinstance(n, ast.Import | ast.ImportFrom))
    }
    assert users <= {"cli", "cli_register"}


def test_imports_are_seen_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above would be worth nothing if they overlooked one."""
    path = tmp_path / "matching" / "sample.py"
    path.parent.mkdir()
    text = "import vtk.util\nfrom qt import QWidget\nfrom ..viz import Row\nfrom .. import cache\nfrom . import nearest\nfrom .subcell import x\n"
    text += f"import {PACKAGE.name}.cli\nfrom {PACKAGE.name} import session\ndef f():\n    from {PACKAGE.name}.catalogue import y\n"
    path.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / PACKAGE.name)
    (tmp_path / PACKAGE.name / "matching").mkdir(parents=True)
    path = path.rename(tmp_path / PACKAGE.name / "matching" / "sample.py")
    assert imports(path, own=False) == {"vtk", "qt"}
    assert imports(path, own=True) == {"viz", "cache", "matching.nearest", "matching.subcell", "cli", "session", "catalogue"}


def test_importing_the_package_is_cheap() -> None:
    code = f"import sys, {PACKAGE.name}; print([m for m in ('torch', 'SimpleITK', 'numpy', 'scipy') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names_are_few_and_all_there() -> None:
    package = importlib.import_module(PACKAGE.name)
    assert len(package.__all__) == len(set(package.__all__)) <= MOST_NAMES
    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = package.nonsense


# --- sizes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES + TRAINING + WEB, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_files_functions_and_classes_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= SMALL_FILE
    large = [
        f"{name} has {lines(node)} lines"
        for name, _, node in definitions(path)
        if lines(node) > (SMALL_CLASS if isinstance(node, ast.ClassDef) else SMALL_FUNCTION)
    ]
    assert large == []


def test_no_file_of_the_repository_is_large() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs the repository, not only its files")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 20
    assert [str(f) for f in files if f.is_file() and f.stat().st_size > MOST_BYTES] == []


# --- words ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES + WEB, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_everything_public_is_documented(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), "the file itself"
    assert [name for name, around, node in definitions(path) if is_public(name) and not is_documented(name, around, node)] == []


@pytest.mark.parametrize("path", SOURCES + WEB, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_everything_public_is_annotated(path: Path) -> None:
    missing = {
        name: missing_annotations(node, around is not None)
        for name, around, node in definitions(path)
        if isinstance(node, Function) and (is_public(name) or (node.name == "__init__" and is_public(around.name if around else "")))
    }
    assert {name: gaps for name, gaps in missing.items() if gaps} == {}


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [n.lineno for n in ast.walk(parsed(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert calls == [] or dotted(path) in ("cli", "cli_models", "cli_scans", "cli_serve")


@pytest.mark.parametrize("path", SOURCES + TRAINING, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_text_files_are_read_and_written_in_a_stated_encoding(path: Path) -> None:
    """Windows would take its own code page and fail at the first name from elsewhere."""
    calls = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.Call)]
    text = [n for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr in ("read_text", "write_text")]
    opened = [n for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr == "open"]  # of a path: no argument, or the mode
    modes = [(n, ast.unparse(n.args[0]) if n.args else "'r'") for n in opened]
    text += [n for n, mode in modes if mode.startswith("'") and "b" not in mode]
    text += [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "open"]
    assert [ast.unparse(n) for n in text if "encoding" not in {k.arg for k in n.keywords}] == []


# --- tests ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_every_file_has_a_test(path: Path) -> None:
    folder = path.parent.name if path.parent != PACKAGE else ""
    names = {f"test_{folder}"} if folder else set()
    names.add(TESTED_BY.get(path.stem, f"test_{path.stem}") if not folder else f"test_{path.stem}")
    assert any((TESTS / f"{name}.py").is_file() for name in names), f"none of {sorted(names)} exists"


def test_no_exception_to_the_test_names_is_left_over() -> None:
    assert {name for name in TESTED_BY if not (PACKAGE / f"{name}.py").is_file()} == set()

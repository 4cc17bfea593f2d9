"""The house rules: who may import whom, how big things get, what is documented and what is tested."""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SLICER_MODULE = REPOSITORY / "UniversalAnatomicalEmbedding"
PACKAGE = SLICER_MODULE / "UniversalAnatomicalEmbeddingLib"
TESTS = Path(__file__).parent
LIB, WEB_FACE, PANEL, TRAINING_NAME = PACKAGE.name, "UniversalAnatomicalEmbeddingWeb", "UniversalAnatomicalEmbeddingWidgets", "training"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TRAINING = sorted((REPOSITORY / TRAINING_NAME).rglob("*.py"))
WEB = sorted((SLICER_MODULE / WEB_FACE).glob("*.py"))
WIDGETS = sorted((SLICER_MODULE / PANEL).glob("*.py"))
BENCHMARKS = sorted((REPOSITORY / "Testing" / "benchmarks").glob("*.py"))
OUTSIDERS = [SLICER_MODULE / "UniversalAnatomicalEmbedding.py", *WIDGETS, *WEB, *TRAINING, *BENCHMARKS]
APPLICATION = {"slicer", "qt", "ctk", "vtk"}
FACES = {WEB_FACE, PANEL, TRAINING_NAME}
SMALL_FILE, SMALL_FUNCTION, SMALL_CLASS, MOST_BYTES = 400, 60, 200, 16 * 2**20
FEWEST_FILES, MOST_FILES = 2, 12
PUBLIC = {"Session", "read_volume", "Volume", "Grid", "read_points", "write_points", "PointList"}
PUBLIC |= {"Point", "MatchOptions", "RegisterOptions", "write_transform", "InputError"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(path: Path) -> str:
    """Full name of a module: "training.scans.labels", "UniversalAnatomicalEmbeddingLib" for the package's __init__."""
    base = SLICER_MODULE if path.is_relative_to(SLICER_MODULE) else REPOSITORY
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(p): p for p in (*SOURCES, *TRAINING, *WEB, *WIDGETS)}


def order(package: str) -> tuple[str, ...]:
    """The rooms of a package, as its __init__ lists them."""
    rooms: tuple[str, ...] = importlib.import_module(package).ROOMS
    return rooms


def room(module: str) -> str:
    """Room or file below its package: "matching", "session"; "" for the package itself."""
    return ".".join(module.split(".")[1:2])


def imports(path: Path) -> tuple[set[str], set[str]]:
    """What a file imports anywhere in it: modules of this repository, and the names of other top-level packages."""
    inside, outside = set(), set()
    here = dotted(path).split(".")
    package = here if path.stem == "__init__" else here[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            inside |= {alias.name for alias in node.names if alias.name in MODULES}
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else package[: len(package) - node.level + 1]
            name = ".".join(base + (node.module.split(".") if node.module else []))
            below = {f"{name}.{alias.name}" for alias in node.names}
            inside |= (below & MODULES.keys()) | ({name} & MODULES.keys() if below - MODULES.keys() else set())
            outside.add(name.partition(".")[0])
    return inside - {dotted(path)}, outside - {here[0]}


IMPORTS = {module: imports(path)[0] for module, path in MODULES.items()}
FOREIGN = {module: imports(path)[1] for module, path in MODULES.items()}


def is_empty_of_code(path: Path) -> bool:
    """Whether a file defines nothing: a door, or what runs a room."""
    return not any(isinstance(node, ast.ClassDef | Function | ast.Assign | ast.AnnAssign) for node in parsed(path).body)


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


@pytest.mark.parametrize("package", [LIB, TRAINING_NAME])
def test_the_order_names_every_room_once(package: str) -> None:
    named = order(package)
    code = {module: path for module, path in MODULES.items() if module.startswith(f"{package}.") and not is_empty_of_code(path)}
    assert sorted(named) == sorted({room(module) for module in code})


@pytest.mark.parametrize("module", [m for m in MODULES if m.partition(".")[0] in (LIB, TRAINING_NAME) and room(m)])
def test_imports_point_upwards_in_the_list(module: str) -> None:
    """A room knows only the rooms before it; a door of the training, which holds no code, comes after all of them."""
    package = module.partition(".")[0]
    places = {name: n for n, name in enumerate(order(package))}
    known = {other for other in IMPORTS[module] if other.startswith(f"{package}.") and room(other) != room(module)}
    assert {other for other in known if places.get(room(other), len(places)) >= places.get(room(module), len(places))} == set()


def test_no_imports_go_round_in_a_circle() -> None:
    """A package's __init__ aside, which is run before its modules and names some of them."""
    doors = {module for module, path in MODULES.items() if path.stem == "__init__"}
    graph = {module: others - doors for module, others in IMPORTS.items() if module not in doors}
    try:
        assert set(TopologicalSorter(graph).static_order()) >= graph.keys()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [m for m, p in MODULES.items() if p.stem == "__init__"])
def test_a_room_is_not_entered_from_inside_through_its_door(module: str) -> None:
    inside = {m for m in MODULES if m.startswith(f"{module}.") and "." in module}
    assert {m for m in inside if module in IMPORTS[m]} == set()


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_the_package_knows_no_face_no_training_and_the_application_in_one_room(path: Path) -> None:
    module = dotted(path)
    allowed = {"slicer", "vtk"} if room(module) == "mrml" or module == f"{LIB}.workbench.overlays" else set()
    allowed |= {WEB_FACE} if room(module) == order(LIB)[-1] else set()
    assert FOREIGN[module] & (APPLICATION | FACES) - allowed == set()


@pytest.mark.parametrize("path", TRAINING, ids=dotted)
def test_training_knows_the_package_only(path: Path) -> None:
    assert FOREIGN[dotted(path)] & (APPLICATION | FACES) == set()
    assert {room(other) for other in IMPORTS[dotted(path)] if other.startswith(f"{LIB}.")} & {
        "mrml",
        "worker",
        "workbench",
        "commands",
    } == set()


@pytest.mark.parametrize("path", [p for p in SOURCES if FOREIGN[dotted(p)] & APPLICATION], ids=dotted)
def test_the_application_is_imported_late_and_never_asked(path: Path) -> None:
    tree = parsed(path)
    at_top = {a.name.partition(".")[0] for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "slicer"}
    assert at_top & APPLICATION == set()
    assert used & {"app", "mrmlScene", "modules", "util"} == set()


def test_pictures_are_drawn_by_the_command_line_only() -> None:
    users = {module for module, others in IMPORTS.items() if f"{LIB}.report.figures" in others}
    assert {m.rpartition(".")[0] for m in users} <= {f"{LIB}.commands"}


def test_imports_are_seen_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above would be worth nothing if they overlooked one."""
    path = tmp_path / LIB / "matching" / "sample.py"
    path.parent.mkdir(parents=True)
    text = "import vtk.util\nfrom qt import QWidget\nfrom ..report.figures import Row\nfrom .. import session\nfrom . import nearest\n"
    text += "from .subcell import x\nfrom .. import registration\nfrom ..registration import register_landmarks\n"
    text += f"import {LIB}.options\nfrom {LIB} import mrml\ndef f():\n    from {LIB}.models.catalogue import y\n    import training.scans.scan\n"
    path.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "SLICER_MODULE", tmp_path)
    inside, outside = imports(path)
    names = ("report.figures", "session", "matching.nearest", "matching.subcell", "registration", "options", "mrml", "models.catalogue")
    assert outside == {"vtk", "qt", "training"} | ({LIB} & outside)
    assert inside == {f"{LIB}.{name}" for name in names} | {"training.scans.scan"}


HEAVY = {"torch", "SimpleITK", "numpy", "scipy", "vtk", "slicer"}
DOORS = [dotted(p) for p in SOURCES if p.stem == "__init__" and room(dotted(p)) not in ("", "commands")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SLICER_MODULE), str(REPOSITORY)])}


def test_importing_the_package_and_its_doors_is_cheap() -> None:
    code = f"import sys, {', '.join([LIB, *DOORS])}; print(set(sys.modules) & {HEAVY})"
    result = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_the_package_promises_twelve_names() -> None:
    package = importlib.import_module(LIB)
    assert set(package.__all__) == PUBLIC and len(package.__all__) == 12
    assert all(getattr(package, name).__name__ == name for name in PUBLIC)


@pytest.mark.parametrize("door", DOORS)
def test_what_a_door_promises_is_there(door: str) -> None:
    """And has no file's name: once the file is loaded, Python would put it in the name's place."""
    room, files = importlib.import_module(door), {p.stem for p in MODULES[door].parent.glob("*.py")}
    assert all(hasattr(room, name) for name in room.__all__)
    assert set(room.__all__) & files == set()


@pytest.mark.parametrize("path", OUTSIDERS, ids=dotted)
def test_outsiders_come_in_by_the_doors(path: Path) -> None:
    used = {module for module in imports(path)[0] if module.startswith(f"{LIB}.")}
    assert {module for module in used if module.count(".") > 1} == set(), "files inside a room"
    named = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.ImportFrom) and n.module in DOORS]
    for node in named:
        promised = importlib.import_module(str(node.module)).__all__
        assert {alias.name for alias in node.names} - set(promised) == set()


# --- sizes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES + TRAINING + WEB + WIDGETS, ids=dotted)
def test_files_functions_and_classes_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= SMALL_FILE
    large = [
        f"{name} has {lines(node)} lines"
        for name, _, node in definitions(path)
        if lines(node) > (SMALL_CLASS if isinstance(node, ast.ClassDef) else SMALL_FUNCTION)
    ]
    assert large == []


@pytest.mark.parametrize("folder", sorted({p.parent for p in SOURCES + TRAINING + WEB + WIDGETS}), ids=lambda p: p.name)
def test_a_room_has_few_files(folder: Path) -> None:
    files = [p for p in folder.glob("*.py") if p.stem != "__init__"]
    assert FEWEST_FILES <= len(files) <= MOST_FILES


def test_no_file_of_the_repository_is_large() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs the repository, not only its files")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 20
    assert [str(f) for f in files if f.is_file() and f.stat().st_size > MOST_BYTES] == []


@pytest.mark.parametrize("folder", sorted({p.parent for p in SOURCES + TRAINING}), ids=dotted)
def test_a_door_says_in_one_paragraph_what_lives_behind_it(folder: Path) -> None:
    words = ast.get_docstring(parsed(folder / "__init__.py"))
    assert words and "\n\n" not in words


# --- words ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES + WEB, ids=dotted)
def test_everything_public_is_documented(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), "the file itself"
    assert [name for name, around, node in definitions(path) if is_public(name) and not is_documented(name, around, node)] == []


@pytest.mark.parametrize("path", SOURCES + WEB, ids=dotted)
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
    assert calls == [] or room(dotted(path)) == "commands"


@pytest.mark.parametrize("path", SOURCES + TRAINING, ids=dotted)
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


@pytest.mark.parametrize("path", [p for p in SOURCES + TRAINING if p.stem != "__init__" and not is_empty_of_code(p)], ids=dotted)
def test_every_file_has_a_test_of_its_name_in_the_folder_of_its_room(path: Path) -> None:
    base = PACKAGE if path.is_relative_to(PACKAGE) else REPOSITORY
    wanted = TESTS / path.relative_to(base).with_name(f"test_{path.stem.strip('_')}.py")
    assert wanted.is_file(), f"{wanted.relative_to(REPOSITORY)} does not exist"


@pytest.mark.parametrize("path", [p for p in TRAINING if p.stem != "__init__" and is_empty_of_code(p)], ids=dotted)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_a_door_of_the_training_runs_what_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = dotted(path).removesuffix(".__main__")
    assert importlib.import_module(dotted(path)).main.__module__.endswith(command.removeprefix(TRAINING_NAME))
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(command, run_name="__main__")
    assert capsys.readouterr().out.startswith("usage")


def test_helpers_of_the_tests_are_no_tests() -> None:
    """A helper is imported by its bare name, so no two may share one."""
    helpers = [p.stem for p in TESTS.glob("*.py") if not p.stem.startswith("test_")]
    rooms = {p.name for p in TESTS.iterdir() if p.is_dir()}
    assert set(helpers) & rooms == set()
    tests = [p for p in TESTS.rglob("*.py") if "from test_" in p.read_text(encoding="utf-8")]
    assert [
        p for p in tests if any(isinstance(n, ast.ImportFrom) and (n.module or "").startswith("test_") for n in ast.walk(parsed(p)))
    ] == []

"""The contract that the stand-ins keep, as Slicer does.

The same tests run against Slicer's own Python files when SLICER_PY names the folder ``Base/Python/slicer`` of its sources.
"""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requires

requires.needs_views()

import slicer  # noqa: E402
import standins  # noqa: E402


class Kind(enum.Enum):
    """A choice."""

    FIRST = 1
    SECOND = 2


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = slicer.vtkMRMLScene()
    standins.install(made, tmp_path_factory.mktemp("settings"))
    return made


def wrapper() -> type:
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        points: slicer.vtkMRMLMarkupsFiducialNode
        name: str = "none"
        on: bool = True
        count: int = 3
        share: float = 0.5
        kind: Kind = Kind.SECOND

    return parameterNodeWrapper(Parameters)


def test_fields_are_kept_as_slicer_writes_them(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "p")
    parameters = wrapper()(node)
    assert (parameters.name, parameters.on, parameters.count, parameters.share, parameters.kind) == ("none", True, 3, 0.5, Kind.SECOND)
    assert parameters.volume is None
    stored = {name: node.GetParameter(name) for name in ("name", "on", "count", "share", "kind")}
    assert stored == {"name": "none", "on": "True", "count": "3", "share": "0.5", "kind": "SECOND"}
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "v")
    parameters.volume, parameters.on, parameters.kind, parameters.name = volume, False, Kind.FIRST, "b"
    assert node.GetNodeReference("volume") is volume
    assert (node.GetParameter("on"), node.GetParameter("kind"), node.GetParameter("name")) == ("False", "FIRST", "b")
    again = wrapper()(node)
    assert again.volume is volume and again.on is False and again.kind is Kind.FIRST and again.name == "b", "defaults do not overwrite"
    parameters.volume = None
    assert node.GetNodeReference("volume") is None and wrapper()(node).volume is None


def test_changes_are_told(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "q")
    parameters, heard = wrapper()(node), []
    node.AddObserver("ModifiedEvent", lambda *_: heard.append(1))
    parameters.count = 4
    assert heard and parameters.parameterNode is node


def test_a_logic_has_one_parameter_node(scene: Any) -> None:
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    class SomethingLogic(ScriptedLoadableModuleLogic):
        pass

    node = SomethingLogic().getParameterNode()
    assert node.GetAttribute("ModuleName") == "Something" and node.GetSingletonTag() == "Something"
    assert SomethingLogic().getParameterNode() is node


def test_modules_widgets_and_tests_are_built_as_slicer_builds_them(scene: Any) -> None:
    import qt
    from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest, ScriptedLoadableModuleWidget

    class UniversalAnatomicalEmbedding(ScriptedLoadableModule):
        pass

    class UniversalAnatomicalEmbeddingWidget(ScriptedLoadableModuleWidget):
        pass

    parent = SimpleNamespace(path="/somewhere/Module.py")
    assert UniversalAnatomicalEmbedding(parent).moduleName == "UniversalAnatomicalEmbedding" and parent.categories == []
    assert Path(UniversalAnatomicalEmbedding(parent).resourcePath("UI/a.ui")) == Path("/somewhere/Resources/UI/a.ui")
    box = qt.QWidget()
    box.setLayout(qt.QVBoxLayout())
    widget = UniversalAnatomicalEmbeddingWidget(box)
    widget.setup()
    assert widget.parent is box and widget.moduleName == "UniversalAnatomicalEmbedding"
    assert Path(widget.resourcePath("UI/UniversalAnatomicalEmbedding.ui")).is_file()
    assert issubclass(ScriptedLoadableModuleTest, __import__("unittest").TestCase)


def test_translation_gives_text(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from slicer.i18n import tr, translate

    assert tr("Register") == "Register" and translate("context", "Registration") == "Registration"
    monkeypatch.setattr(slicer.app, "translate", lambda context, text: f"{context}: {text}")
    assert tr("Register") == "test_standins: Register" and translate("there", "Register") == "there: Register"


def test_signals_are_connected_by_their_names(scene: Any) -> None:
    import qt

    button, heard = qt.QPushButton("x"), []
    button.connect("clicked()", lambda: heard.append("clicked"))
    button.connect("toggled(bool)", lambda on: heard.append(on))
    button.setCheckable(True)
    button.click()
    assert set(heard) == {"clicked", True} and button.name == ""
    with pytest.raises(ValueError, match="no signal klicked"):
        button.connect("klicked()", print)

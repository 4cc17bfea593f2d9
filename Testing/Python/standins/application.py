"""Puts the stand-ins in place of the application."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

MODULE_FILE = Path(__file__).resolve().parents[3] / "UniversalAnatomicalEmbedding" / "UniversalAnatomicalEmbedding.py"
GENUINE = ("ScriptedLoadableModule", "i18n", "parameterNodeWrapper")


class Application:
    """``slicer.app``."""

    applicationName = "Slicer"
    majorVersion, minorVersion = 5, 12

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def testingEnabled(self) -> bool:
        return True

    def userSettings(self) -> Any:
        return self._settings

    def processEvents(self) -> None:
        from . import qt

        qt.QApplication.processEvents()

    def setOverrideCursor(self, cursor: Any) -> None:
        pass

    def restoreOverrideCursor(self) -> None:
        pass

    def topLevelWidgets(self) -> list[Any]:
        return []

    def moduleManager(self) -> Application:
        return self

    def translate(self, context: str, text: str) -> str:
        return text

    def connect(self, signal: str, function: Any) -> None:
        """ "startupCompleted()" never comes here."""


class Modules:
    """``slicer.modules``."""

    universalanatomicalembedding = types.SimpleNamespace(path=str(MODULE_FILE))


def install(scene: Any, folder: Path) -> Any:
    """Make ``import slicer, qt, ctk`` what a Slicer module expects; settings are kept in ``folder``. Returns the QApplication."""
    import slicer

    from . import ctk, i18n, parameter_node, qt, scripted_module

    application = qt.QApplication.instance() or qt.QApplication([])
    settings = qt.QSettings(str(folder / "settings.ini"), qt.QSettings.IniFormat)
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    slicer.mrmlScene = scene
    slicer.app = Application(settings)
    slicer.modules = Modules()
    slicer.qMRMLWidget = ctk.qMRMLWidget
    slicer.qMRMLNodeComboBox = ctk.qMRMLNodeComboBox
    stand_ins = {
        "ScriptedLoadableModule": scripted_module,
        "parameterNodeWrapper": parameter_node,
        "i18n": i18n,
    }
    sources = os.environ.get("SLICER_PY")
    if sources:
        slicer.__path__.append(str(Path(sources)))
        sys.modules["qSlicerSubjectHierarchyModuleWidgetsPythonQt"] = ctk
    for name in GENUINE:
        if sources:
            importlib.import_module(f"slicer.{name}")
            logging.info("slicer.%s is %s", name, sys.modules[f"slicer.{name}"].__file__)
        else:
            sys.modules[f"slicer.{name}"] = stand_ins[name]  # type: ignore[assignment]
            setattr(slicer, name, stand_ins[name])
    return application

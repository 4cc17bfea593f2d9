"""Slicer's ``qt`` module over PySide6, in PythonQt's manner: one flat name space, ``object.name``, ``object.connect("clicked(bool)", f)``."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

Qt = QtCore.Qt
Signal = QtCore.Signal
_made: dict[str, Any] = {}


def _connect(sender: QtCore.QObject, signature: str, called: Any) -> None:
    """The signal must exist with this signature; ``called`` gets as many arguments as it names."""
    name, _, kinds = signature.removesuffix(")").partition("(")
    kinds = kinds.replace("vtkMRMLNode*", "PyObject")
    known = sender.metaObject().indexOfSignal(f"{name}({kinds})") >= 0 or sender.metaObject().indexOfSignal(f"{name}(bool)") >= 0
    if not known:
        raise ValueError(f"{sender.metaObject().className()} has no signal {signature}")
    count = len(kinds.split(",")) if kinds else 0
    getattr(sender, name).connect(lambda *arguments: called(*arguments[:count]))


def __getattr__(name: str) -> Any:
    """A class of Qt; one with signals as a subclass that has PythonQt's ``connect``."""
    for module in (QtCore, QtGui, QtWidgets):
        if name in _made or not hasattr(module, name):
            continue
        found = getattr(module, name)
        signals = isinstance(found, type) and issubclass(found, QtCore.QObject)
        _made[name] = type(name, (found,), {"connect": _connect}) if signals and name != "QApplication" else found
    if name in _made:
        return _made[name]
    raise AttributeError(f"module 'qt' has no attribute '{name}'")


class QMenu(QtWidgets.QMenu):
    """Its actions have PythonQt's ``connect``."""

    def addAction(self, text: str) -> Any:
        action = __getattr__("QAction")(text, self)
        super().addAction(action)
        return action


class QFileDialog(QtWidgets.QFileDialog):
    """The static functions answer a path, as in PythonQt, not a pair."""

    @staticmethod
    def getOpenFileName(*arguments: Any) -> str:
        return QtWidgets.QFileDialog.getOpenFileName(*arguments)[0]


class QUiLoader(QtUiTools.QUiLoader):
    """Builds the stand-ins of Slicer's widgets where a .ui file names them, as Slicer's designer plugins do."""

    known: dict[str, type] = {}

    def load(self, file: QtCore.QFile) -> QtWidgets.QWidget:
        """Load a .ui file; its connections of MRML signals, whose types Qt does not know here, are made by name."""
        tree = ElementTree.fromstring(bytes(file.readAll()))
        connections = tree.find("connections")
        tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QBuffer.ReadOnly)
        root = super().load(buffer)
        for made in connections:
            sender, signal, receiver, slot = (made.find(part).text for part in ("sender", "signal", "receiver", "slot"))
            target = root.findChild(QtWidgets.QWidget, receiver)
            if sender != root.objectName() or target is None:
                raise RuntimeError(f"The .ui file connects {sender} to {receiver}, and one of them is not there.")
            getattr(root, signal.partition("(")[0]).connect(getattr(target, slot.partition("(")[0]))
        return root

    def createWidget(self, className: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> QtWidgets.QWidget:
        if className not in self.known and not hasattr(QtWidgets, className):
            raise RuntimeError(f"The .ui file names the widget class {className}, which nobody knows.")
        widget = (self.known.get(className) or __getattr__(className))(parent)
        widget.setObjectName(name)
        return widget


QtCore.QObject.name = property(lambda self: self.objectName())

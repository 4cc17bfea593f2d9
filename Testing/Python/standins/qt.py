"""Slicer's ``qt`` module over PySide6: one flat name space, and the object name as the attribute ``name``, as PythonQt has it."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

for _module in (QtCore, QtGui, QtWidgets):
    globals().update({name: getattr(_module, name) for name in dir(_module) if name[0] == "Q"})
Signal = QtCore.Signal
Qt = QtCore.Qt
QtCore.QObject.name = property(lambda self: self.objectName())
QtCore.QObject.className = lambda self: self.metaObject().className()


class QUiLoader(QtUiTools.QUiLoader):
    """Builds the stand-ins of Slicer's widgets where a .ui file names them, as Slicer's designer plugins do."""

    known: dict[str, type] = {}

    def createWidget(self, className: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> QtWidgets.QWidget:  # noqa: N802, N803
        if className not in self.known:
            if not hasattr(QtWidgets, className):
                raise RuntimeError(f"The .ui file names the widget class {className}, which nobody knows.")
            return super().createWidget(className, parent, name)
        widget = self.known[className](parent)
        widget.setObjectName(name)
        return widget

"""The few CTK and qMRML widgets that the panel uses, with their real names, properties and signals."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import qt


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A titled section that opens and closes."""

    connect = qt._connect
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False

    def setText(self, text: str) -> None:
        self._text = text
        self.setContentsMargins(0, 26, 0, 6)
        self.update()

    def setCollapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setMaximumHeight(26 if collapsed else 16777215)
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not collapsed)
        self.contentsCollapsed.emit(collapsed)

    def isCollapsed(self) -> bool:
        return self._collapsed

    text = QtCore.Property(str, lambda self: self._text, setText)
    collapsed = QtCore.Property(bool, isCollapsed, setCollapsed)

    def showEvent(self, event: Any) -> None:
        self.setCollapsed(self._collapsed)

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 0, self.width(), 24, self.palette().button())
        painter.drawText(8, 17, ("▸ " if self._collapsed else "▾ ") + self._text)


class qMRMLWidget(QtWidgets.QWidget):
    """The root of a module's panel; the connections in its .ui file hand its scene on to its children."""

    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """A chooser of nodes of a scene by class."""

    connect = qt._connect
    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._none = False
        self._scene: Any = None
        self._current: Any = None
        self._hidden: list[tuple[str, str]] = []
        self.activated.connect(self._chosen)

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, lambda self, types: setattr(self, "_types", list(types)))
    noneEnabled = QtCore.Property(bool, lambda self: self._none, lambda self, on: setattr(self, "_none", on))
    addEnabled = QtCore.Property(bool, lambda self: False, lambda self, on: None)
    removeEnabled = QtCore.Property(bool, lambda self: False, lambda self, on: None)
    renameEnabled = QtCore.Property(bool, lambda self: False, lambda self, on: None)
    showHidden = QtCore.Property(bool, lambda self: False, lambda self, on: None)
    showChildNodeTypes = QtCore.Property(bool, lambda self: True, lambda self, on: None)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            scene.AddObserver(event, lambda *_: self._refill())
        self._refill()

    def addAttribute(self, node_type: str, name: str, value: str | None = None) -> None:
        """Only nodes that have the attribute are shown."""
        self._hidden.append((node_type, name))

    def setCurrentNode(self, node: Any) -> None:
        changed = node is not self._current
        self._current = node
        self._refill()
        if changed:
            self.currentNodeChanged.emit(node)

    def currentNode(self) -> Any:
        return self._current

    def _nodes(self) -> list[Any]:
        nodes = [n for i in range(self._scene.GetNumberOfNodes()) for n in [self._scene.GetNthNode(i)]]
        return [n for n in nodes if any(n.IsA(t) for t in self._types) and not n.GetHideFromEditors()]

    def _refill(self) -> None:
        if self._scene.IsBatchProcessing():
            return
        self._shown = ([None] if self._none else []) + self._nodes()
        before = self._current
        if self._current not in self._shown:
            self._current = None if self._none or not self._shown else self._shown[0]
        self.blockSignals(True)
        self.clear()
        self.addItems([n.GetName() if n else "None" for n in self._shown])
        self.setCurrentIndex(self._shown.index(self._current) if self._current in self._shown else -1)
        self.blockSignals(False)
        if before is not self._current:
            self.currentNodeChanged.emit(self._current)

    def _chosen(self, index: int) -> None:
        self.setCurrentNode(self._shown[index])


WIDGETS = {c.__name__: c for c in (ctkCollapsibleButton, qMRMLWidget, qMRMLNodeComboBox)}
qt.QUiLoader.known.update(WIDGETS)


def __getattr__(name: str) -> type:
    """Any other widget class that genuine sources mention: a plain widget."""
    if name.startswith(("ctk", "qMRML")):
        return type(name, (QtWidgets.QWidget,), {})
    raise AttributeError(name)

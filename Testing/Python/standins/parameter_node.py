"""Stand-in of ``slicer.parameterNodeWrapper``: typed fields kept in a parameter node, in the format that Slicer writes."""

from __future__ import annotations

import typing
from enum import Enum
from typing import Any

__all__ = ["parameterNodeWrapper"]


def parameterNodeWrapper(cls: type) -> type:
    """Make the annotated fields of a class properties over the node that its constructor gets."""
    hints = typing.get_type_hints(cls)
    defaults = {name: getattr(cls, name) for name in hints if hasattr(cls, name)}

    def init(self: Any, node: Any) -> None:
        self.parameterNode = node
        for name, kind in hints.items():
            if not _is_node(kind) and node.GetParameter(name) == "":
                _write(node, name, kind, defaults[name] if name in defaults else kind())

    cls.__init__ = init  # type: ignore[misc]
    for name, kind in hints.items():
        setattr(cls, name, property(_getter(name, kind), _setter(name, kind)))
    return cls


def _getter(name: str, kind: type) -> Any:
    def read(self: Any) -> Any:
        if _is_node(kind):
            return self.parameterNode.GetNodeReference(name)
        text = self.parameterNode.GetParameter(name)
        if kind is bool:
            return text == "True"
        return kind[text] if issubclass(kind, Enum) else kind(text)

    return read


def _setter(name: str, kind: type) -> Any:
    return lambda self, value: _write(self.parameterNode, name, kind, value)


def _write(node: Any, name: str, kind: type, value: Any) -> None:
    if _is_node(kind):
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
    else:
        node.SetParameter(name, value.name if isinstance(value, Enum) else str(value))


def _is_node(kind: type) -> bool:
    return kind.__name__.startswith("vtkMRML")

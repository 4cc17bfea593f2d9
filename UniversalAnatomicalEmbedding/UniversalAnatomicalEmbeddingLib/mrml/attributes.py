"""What this package keeps on MRML nodes: values and references that are saved with the scene."""

from __future__ import annotations

from collections.abc import Mapping

from .frames import Node

ATTRIBUTE = "UniversalAnatomicalEmbedding."


def attribute(node: Node, name: str) -> str | None:
    """An attribute that this package keeps on a node."""
    value = node.GetAttribute(ATTRIBUTE + name)
    return None if value is None else str(value)


def set_attributes(node: Node, values: Mapping[str, str]) -> None:
    """Keep values on a node; they are saved with the scene."""
    for name, value in values.items():
        node.SetAttribute(ATTRIBUTE + name, value)


def linked(node: Node, role: str) -> Node | None:
    """The node that this one refers to in a role of this package."""
    return node.GetNodeReference(ATTRIBUTE + role)


def link(node: Node, role: str, other: Node | None) -> None:
    """Refer to another node, in a way that survives saving, loading and renaming."""
    node.SetNodeReferenceID(ATTRIBUTE + role, None if other is None else other.GetID())

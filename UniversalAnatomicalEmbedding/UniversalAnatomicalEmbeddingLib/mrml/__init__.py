"""MRML nodes to our values and back; the RAS of nodes becomes LPS here and nowhere else. Nodes and scenes are
passed in, the application is never asked, and slicer and vtk are imported when a function needs
them. Nothing is matched, embedded or decided here."""

from __future__ import annotations

from ..images.grid import FLIP, flipped
from .attributes import ATTRIBUTE, attribute, link, linked, set_attributes
from .frames import Node, from_world, pose, through, to_world
from .markups import (
    CONFIDENCE,
    DEFINED,
    MISSING,
    match_lists,
    point_list,
    position,
    read_landmarks,
    read_matches,
    set_position,
    write_landmarks,
    write_matches,
)
from .volumes import (
    Fingerprint,
    fill_volume,
    fingerprint,
    scan_from_world,
    volume_from_node,
    volume_nodes,
    volume_to_node,
    world_from_scan,
    write_overlay,
)

__all__ = [
    "ATTRIBUTE",
    "CONFIDENCE",
    "DEFINED",
    "FLIP",
    "Fingerprint",
    "MISSING",
    "Node",
    "attribute",
    "fill_volume",
    "fingerprint",
    "flipped",
    "from_world",
    "link",
    "linked",
    "match_lists",
    "point_list",
    "pose",
    "position",
    "read_landmarks",
    "read_matches",
    "scan_from_world",
    "set_attributes",
    "set_position",
    "through",
    "to_world",
    "volume_from_node",
    "volume_nodes",
    "volume_to_node",
    "world_from_scan",
    "write_landmarks",
    "write_matches",
    "write_overlay",
]

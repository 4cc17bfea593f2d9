"""MRML nodes to our values and back; the RAS of nodes becomes LPS here and nowhere else. Nodes and scenes are
passed in, the application is never asked, and slicer and vtk are imported when a function needs
them. Nothing is matched, embedded or decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .attributes import ATTRIBUTE, attribute, link, linked, set_attributes
    from .frames import FLIP, Node, flipped, from_world, pose, through, to_world
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
    from .views import (
        ORIENTATIONS,
        hide_overlay,
        is_placing,
        passing_node,
        show_overlay,
        start_placing,
        stop_placing,
        use_layout,
        view_group,
        view_tag,
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

__all__, __getattr__ = open_door(__name__)

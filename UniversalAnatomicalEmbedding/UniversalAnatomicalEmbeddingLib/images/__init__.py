"""Scans in memory and on disk: the grid that maps voxel index to patient, volumes, the NIfTI and
DICOM readers, and the one preparation of a scan for a network. No network and no model is known
here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .grid import FloatArray, Grid
    from .modality import identify, modality_of
    from .preprocess import (
        PREPROCESS_VERSION,
        Intensity,
        approximate_body,
        scale_intensity,
        to_canonical,
    )
    from .search_space import (
        anatomy_voxels,
        approximate_anatomy,
        bounding_box,
        cell_means,
        find_search_space,
    )
    from .volume import (
        EXTENSIONS,
        Modality,
        Volume,
        from_array,
        read_volume,
        require_3d,
        to_sitk,
        write_volume,
    )

__all__, __getattr__ = open_door(__name__)

"""Scans in memory and on disk: the grid that maps voxel index to patient, volumes, the NIfTI and
DICOM readers, and the one preparation of a scan for a network. No network and no model is known
here."""

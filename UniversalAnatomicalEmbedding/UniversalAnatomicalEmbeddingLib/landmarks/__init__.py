"""Labelled points in LPS millimetres with their files, and the table of landmarks against target
volumes. Voxels, models and MRML nodes are not known here."""

"""Canonical scans as the training sees them: index, voxels, body, labels, points common to
patients. How they are made from foreign files belongs to prepare."""

"""Pretraining of the models. It imports the package and is never imported by it; its rooms import
each other in this order only."""

ROOMS = (
    "scans",
    "prepare",
    "batches",
    "learning",
    "rounds",
    "measure",
    "release",
    "main",
)

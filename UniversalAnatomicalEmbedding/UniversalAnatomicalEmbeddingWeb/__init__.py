"""The browser face: real Slicer scene and slice views drawn by trame-slicer, started with ``uae serve``."""

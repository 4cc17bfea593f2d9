"""Draws the pictures of the README without a screen: the panel, and a layout of real scans with matched landmarks.

    python Testing/screenshots.py TEMPLATE LANDMARKS TARGET [TARGET ...]

Needs slicer-core, trame-slicer[standalone] and PySide6-Essentials; writes Resources/Screenshots/slicer_*.png.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "UniversalAnatomicalEmbedding"), str(REPOSITORY / "Testing" / "Python")]
os.environ.pop("DISPLAY", None)
os.environ["QT_QPA_PLATFORM"] = "offscreen"

import numpy as np  # noqa: E402
import standins  # noqa: E402
from PIL import Image  # noqa: E402
from stage import ORIENTATIONS, Stage  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images import read_volume  # noqa: E402

SIZE = 340
SHOWN = "carina"


def main(template: str, landmarks: str, *targets: str) -> None:
    """Load, prepare with the real worker, match, look."""
    stage = Stage()
    application = standins.install(stage.scene, Path(tempfile.mkdtemp()))
    import qt

    import UniversalAnatomicalEmbedding as module

    nodes = [mrml.volume_to_node(stage.scene, read_volume(path)) for path in (template, *targets)]
    for letter, node in zip("ABCDEFGH", nodes, strict=False):
        node.SetName(f"Patient {letter}")
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevel(500, 40)
    parent = qt.QWidget()
    parent.setLayout(qt.QVBoxLayout())
    widget = module.UniversalAnatomicalEmbeddingWidget(parent)
    widget.setup()
    print(widget.logic.prepare())
    widget.logic.bench.import_points(landmarks)
    table = widget.logic.presenter.table
    key = next((r.key for r in table.landmarks if SHOWN in r.label.lower()), table.keys[0])
    widget.logic.presenter.select(key, nodes[1].GetID())
    rows = []
    for row, node in enumerate(nodes[:2]):
        for orientation in ORIENTATIONS:
            view = stage.view(mrml.view_tag(row, orientation), node, orientation, 100 + row, (SIZE, SIZE))
            view.zoom(0.1)
    widget.logic.bench.refresh()
    widget.logic.bench.jump_to(key)
    for row in range(2):
        rows.append(np.hstack([stage.image(mrml.view_tag(row, o)) for o in ORIENTATIONS]))
    folder = REPOSITORY / "Resources" / "Screenshots"
    layout = np.vstack(rows)
    layout[SIZE - 1 : SIZE + 1] = 90
    Image.fromarray(layout).save(folder / "slicer_layout.png", optimize=True)
    parent.resize(520, 930)
    parent.show()
    application.processEvents()
    parent.grab().save(str(folder / "slicer_panel.png"))
    widget.cleanup()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Section "Registration"."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from UniversalAnatomicalEmbeddingLib.options import RegisterOptions

from .tables import put, resize

STAGES = ("rigid", "similarity", "affine", "deformable")
SOURCES = ("embeddings", "accepted landmarks")
PREVIEWS = ("none", "fade", "checkerboard", "reveal")


class RegistrationSection:
    """Choose, register, look, undo."""

    def __init__(self, ui: Any, panel: Any) -> None:
        self.ui, self.panel, self.logic = ui, panel, panel.logic
        self.registering = panel.logic.registering
        self.stage, self.source, self.kind, self.share = "affine", "embeddings", "none", 0.5
        ui.stageSelector.setCurrentIndex(STAGES.index(self.stage))
        ui.fixedSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: panel.refresh())
        ui.movingSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: panel.refresh())
        ui.stageSelector.connect("currentIndexChanged(int)", lambda i: setattr(self, "stage", STAGES[i]))
        ui.sourceSelector.connect("currentIndexChanged(int)", lambda i: setattr(self, "source", SOURCES[i]))
        ui.previewSelector.connect("currentIndexChanged(int)", self.onPreview)
        ui.fadeSlider.connect("valueChanged(int)", self.onShare)
        ui.registerButton.connect("clicked()", self.onRegister)
        ui.undoRegistrationButton.connect("clicked()", self.onUndo)
        self.registering.changed = self.refresh

    @property
    def volumes(self) -> tuple[Any, Any]:
        """The fixed and the moving volume."""
        return self.ui.fixedSelector.currentNode(), self.ui.movingSelector.currentNode()

    def onRegister(self) -> None:
        if self.registering.busy:
            self.registering.cancel()
            return
        with self.panel.shown(_("The volumes cannot be registered.")):
            options = RegisterOptions(stage=self.stage, refine=self.ui.refineCheckBox.isChecked())
            self.registering.start(*self.volumes, options, self.source, self.logic.model, self.logic.device)
            self.panel.keepPolling()

    def onUndo(self) -> None:
        self.registering.undo()
        self.showPreview()

    def onPreview(self, index: int) -> None:
        self.kind = PREVIEWS[index]
        self.showPreview()

    def onShare(self, value: int) -> None:
        self.share = value / 100
        self.showPreview()

    def showPreview(self) -> None:
        """Show both volumes as chosen, where they are now."""
        with self.panel.shown(_("The preview cannot be shown.")):
            self.registering.preview(self.kind, *self.volumes, self.share)

    def refresh(self) -> None:
        """Say what can be done, how far it is, what came out."""
        ui, (fixed, moving) = self.ui, self.volumes
        self.logic.fixed, self.logic.moving = fixed, moving
        chosen = fixed is not None and moving is not None
        if self.registering.busy:
            text, possible = _("Cancel"), True
        elif not chosen:
            text, possible = _("Select a fixed and a moving volume"), False
        elif fixed is moving:
            text, possible = _("Fixed and moving volume must not be the same"), False
        else:
            text, possible = _("Register"), not self.logic.presenter.missing
        ui.registerButton.setText(text)
        ui.registerButton.setEnabled(possible)
        ui.undoRegistrationButton.setEnabled(self.registering.outcome is not None and not self.registering.busy)
        ui.registrationLabel.setText(self.registering.text)
        errors = self.registering.errors(fixed, moving) if chosen and fixed is not moving else []
        resize(ui.treTable, [_("Before (mm)"), _("After (mm)")], [label for label, before, after in errors])
        for row, (_label, before, after) in enumerate(errors):
            put(ui.treTable, row, 0, f"{before:.1f}")
            put(ui.treTable, row, 1, "" if after is None else f"{after:.1f}")

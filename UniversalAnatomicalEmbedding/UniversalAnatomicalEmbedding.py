"""The Slicer module: metadata, parameter node, panel, logic for the Python console, self test."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

from UniversalAnatomicalEmbeddingLib import mrml, system
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.system import InputError
from UniversalAnatomicalEmbeddingLib.workbench import (
    LiveCursor,
    Overlay,
    Preparation,
    Registering,
    Workbench,
)
from UniversalAnatomicalEmbeddingLib.worker import Desk, WorkerClient

POLL_MS = 50
CHEST_SHA256 = "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"
CARDIO_SHA256 = "3b0d4eb1a7d8ebb0c5a89cc0504640f76a030b4e869e33ff34c564c3d3b88ad2"


class UniversalAnatomicalEmbedding(ScriptedLoadableModule):
    """What the application shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Universal Anatomical Embedding")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = ["Markups", "Volumes"]
        parent.contributors = ["The Universal Anatomical Embedding developers"]
        parent.helpText = _(
            "Click a landmark in one scan and see the same anatomy in all others, with a confidence, or that it is not there. "
            "Prepare embeds every scan once; then each click answers at once. Not a medical device."
        )
        parent.acknowledgementText = _(
            "Methods: SAM (Yan et al., IEEE TMI 2022) and UAE (Bai et al., arXiv 2311.15111). The bundled model was trained on public scans "
            "that are credited in its model card."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer two chest scans of different patients, from Slicer's own collection, in the Sample Data module."""
    import SampleData

    host = "https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Universal Anatomical Embedding",
        sampleName="UAEChestPair",
        uris=[host + CHEST_SHA256, host + CARDIO_SHA256],
        fileNames=["CT-chest.nrrd", "CTA-cardio.nrrd"],
        nodeNames=["Template chest", "Target chest"],
        checksums=[f"SHA256:{CHEST_SHA256}", f"SHA256:{CARDIO_SHA256}"],
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "Icons" / "UniversalAnatomicalEmbedding.png"),
    )


@parameterNodeWrapper
class UniversalAnatomicalEmbeddingParameterNode:
    """What is kept with the scene: which volume is the template, which list is its, what was chosen for registration."""

    templateVolume: slicer.vtkMRMLScalarVolumeNode
    templateList: slicer.vtkMRMLMarkupsFiducialNode
    fixedVolume: slicer.vtkMRMLScalarVolumeNode
    movingVolume: slicer.vtkMRMLScalarVolumeNode


class UniversalAnatomicalEmbeddingWidget(ScriptedLoadableModuleWidget):
    """The panel. Every decision is the presenter's; this class connects its sections to the application."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic: UniversalAnatomicalEmbeddingLogic | None = None
        self._observed: list[tuple[Any, int]] = []
        self._shortcuts: list[Any] = []
        self._refreshing = False
        self._restored = False

    def setup(self) -> None:
        """Build the panel; nothing here needs torch."""
        from UniversalAnatomicalEmbeddingWidgets.diagnostics_section import DiagnosticsSection
        from UniversalAnatomicalEmbeddingWidgets.landmark_section import LandmarkSection
        from UniversalAnatomicalEmbeddingWidgets.registration_section import RegistrationSection
        from UniversalAnatomicalEmbeddingWidgets.volume_section import VolumeSection

        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/UniversalAnatomicalEmbedding.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        self.logic = UniversalAnatomicalEmbeddingLogic(report=self.report)
        panel.setMRMLScene(slicer.mrmlScene)
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.onTimer)
        self.volumes = VolumeSection(self.ui, self)
        self.landmarks = LandmarkSection(self.ui, self)
        self.registration = RegistrationSection(self.ui, self)
        self.diagnostics = DiagnosticsSection(self.ui, self)
        self.logic.presenter.on_change(self.refresh)
        self._observe(slicer.mrmlScene, slicer.mrmlScene.StartBatchProcessEvent, lambda scene: setattr(self, "_restored", False))
        self._observe(slicer.mrmlScene, slicer.mrmlScene.EndBatchProcessEvent, self.restore)
        for node, event, called in (
            ("vtkMRMLCrosshairNode", "ModifiedEvent", self.landmarks.onCrosshair),
            ("vtkMRMLInteractionNode", "ModifiedEvent", lambda node: self.landmarks.refreshPlacing()),
        ):
            self._observe(slicer.mrmlScene.GetFirstNodeByClass(node), event, called)
        self.checkDependencies()
        self.restore()

    def cleanup(self) -> None:
        """Leave nothing behind: the worker, the timer, the observers."""
        self.exit()
        self.timer.stop()
        for target, tag in self._observed:
            target.RemoveObserver(tag)
        self._observed = []
        self.logic.close()

    def enter(self) -> None:
        """The keys work while the module is open."""
        parent = slicer.util.mainWindow() or self.parent
        for key, called in self.landmarks.keys.items():
            shortcut = qt.QShortcut(parent)
            shortcut.setKey(qt.QKeySequence(key))
            shortcut.connect("activated()", called)
            self._shortcuts.append(shortcut)
        self.checkDependencies()

    def exit(self) -> None:
        """Give the keys back."""
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def restore(self, *_event: Any) -> None:
        """After a scene was loaded or closed: take up what its parameter node says."""
        parameters = self.logic.getParameterNode()
        template, points = parameters.templateVolume, parameters.templateList
        if template is not None and template.GetID() in self.logic.presenter.volumes:
            self.logic.setTemplate(template)
        if points is not None and points is not self.logic.bench.lists.template:
            self.logic.bench.lists.use(points)
        self.ui.fixedSelector.setCurrentNode(parameters.fixedVolume)
        self.ui.movingSelector.setCurrentNode(parameters.movingVolume)
        self._restored = True
        self.refresh()

    def refresh(self) -> None:
        """Show what the presenter says, and keep with the scene what was chosen."""
        if self._refreshing or slicer.mrmlScene.IsBatchProcessing():
            return
        self._refreshing = True
        try:
            self.ui.nextStepLabel.setText(self.logic.presenter.next_step)
            self.volumes.refresh()
            self.landmarks.refresh()
            self.registration.refresh()
            if self._restored:  # while a scene comes in, its own parameter node must not be overwritten
                self.logic.remember()
        finally:
            self._refreshing = False

    def keepPolling(self) -> None:
        """A job was given to the worker: listen until all are done."""
        self.timer.start()

    def onTimer(self) -> None:
        """Take in what the worker says."""
        with self.shown(_("An answer of the worker could not be used.")):
            if not self.logic.desk.poll():
                self.timer.stop()

    def checkDependencies(self) -> None:
        """Say in the panel what has to be installed first."""
        problems = system.find_problems()
        listed = ", ".join(str(p) for p in problems)
        self.logic.presenter.set_missing(_("Needed first: {packages}.").format(packages=listed) if problems else "")

    def install(self) -> None:
        """Ask once, install, look again; where that fails say how to do it without the internet."""
        problems = system.find_problems()
        if slicer.util.confirmOkCancelDisplay(system.question(problems), detailedText=system.offline_text(problems)):
            try:
                system.install(problems, system.SlicerInstaller())
            except InputError as error:
                slicer.util.errorDisplay(str(error), detailedText=system.offline_text(problems))
            self.logic.client.restart()
        self.checkDependencies()

    def report(self, error: Exception) -> None:
        """Show an error of something that was done in a view."""
        with self.shown(_("This could not be done.")):
            raise error

    @contextmanager
    def shown(self, message: str) -> Iterator[None]:
        """A mistake of the person is shown as its sentence; a defect with its traceback."""
        try:
            yield
        except InputError as error:
            slicer.util.errorDisplay(str(error))
        except Exception as error:
            logging.exception(message)
            slicer.util.errorDisplay(f"{message}\n\n{error}")

    def _observe(self, target: Any, event: Any, called: Any) -> None:
        if target is not None:
            self._observed.append((target, target.AddObserver(event, lambda caller, name: called(caller))))


class UniversalAnatomicalEmbeddingLogic(ScriptedLoadableModuleLogic):
    """Every job of the module, for the panel and for the Python console. Volumes are nodes, positions RAS millimetres in the world."""

    def __init__(self, parent: Any = None, client: Any = None, report: Any = logging.exception) -> None:
        ScriptedLoadableModuleLogic.__init__(self, parent)
        system.use_language(translate)
        self.model: str | None = None
        self.device = "auto"
        self.bench = Workbench(slicer.mrmlScene, report=report)
        self.presenter = self.bench.presenter
        self.client = client or WorkerClient()
        self.desk = Desk(self.client)
        self.preparation = Preparation(self.bench, self.desk, notice=lambda sentence: slicer.util.infoDisplay(sentence))
        self.cursor = LiveCursor(self.bench)
        self.overlay = Overlay(self.bench)
        self.registering = Registering(self.bench, self.desk)
        self.fixed: Any = None
        self.moving: Any = None

    def close(self) -> None:
        """End the worker and stop observing the scene; the landmarks stay."""
        self.cursor.hide()
        self.overlay.hide()
        self.client.close()
        self.bench.close()

    def getParameterNode(self) -> UniversalAnatomicalEmbeddingParameterNode:
        """What is kept with the scene."""
        return UniversalAnatomicalEmbeddingParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    def remember(self) -> None:
        """Keep the present choices with the scene."""
        parameters = self.getParameterNode()
        template = self.presenter.template
        node = None if template is None else slicer.mrmlScene.GetNodeByID(template)
        if parameters.templateVolume is not node:
            parameters.templateVolume = node
        for name, chosen in (("fixedVolume", self.fixed), ("movingVolume", self.moving)):
            if getattr(parameters, name) is not chosen:
                setattr(parameters, name, chosen)
        if parameters.templateList is not self.bench.lists.template:
            parameters.templateList = self.bench.lists.template

    # --- jobs --------------------------------------------------------------------------------------------------------------------------

    def setTemplate(self, volume: Any) -> None:
        """Choose the template volume."""
        self.bench.set_template(None if volume is None else volume.GetID())

    def forgetOtherModels(self) -> None:
        """Another model was chosen: what was prepared with the one before does not count."""
        if self.model != self.presenter.model:
            self.presenter.set_model(self.model)
            self.bench.scans.forget()

    def prepare(self, volumes: Collection[Any] | None = None, wait: bool = True) -> dict[str, str]:
        """Embed volumes (None: template and ticked targets). ``wait``: until done, with the application alive meanwhile.

        Returns the state of every volume by name.
        """
        ids = None if volumes is None else [v.GetID() for v in volumes]
        self.preparation.start(ids, self.model, self.device)
        while wait and self.desk.poll():
            slicer.app.processEvents()
            time.sleep(POLL_MS / 1000)
        status = {name: self.presenter.readiness.status(volume) for volume, name in self.presenter.volumes.items()}
        return {name: f"{s.state}: {s.reason}" if s.reason else s.state for name, s in status.items()}

    def register(self, fixed: Any, moving: Any, stage: str = "affine", refine: bool = False, source: str = "embeddings") -> Any:
        """Register two volumes, with the application alive meanwhile; returns the transform node, under which the moving volume then is.

        InputError with the reason where it failed.
        """
        self.registering.start(fixed, moving, RegisterOptions(stage=stage, refine=refine), source, self.model, self.device)
        while self.registering.busy:
            self.desk.poll()
            slicer.app.processEvents()
            time.sleep(POLL_MS / 1000)
        if self.registering.outcome is None or self.registering.outcome.moving is not moving:
            raise InputError(self.registering.text)
        return self.registering.outcome.node

    def place(self, label: str, ras: Any) -> None:
        """Place a landmark in the template; it is matched in all prepared targets."""
        self.bench.add(label, mrml.flipped(ras)[0])

    def match(self, ras: Any, target: Any) -> tuple[tuple[float, float, float] | None, float | None, str]:
        """Look a position of the template up in a target without placing anything: (RAS or None, confidence, status)."""
        cell = self.bench.scans.find(mrml.flipped(ras), target.GetID())[0]
        where = None if cell.position_lps is None else tuple(mrml.flipped(cell.position_lps)[0].tolist())
        return where, cell.confidence, cell.status

    def matchAll(self) -> int:
        """Match every landmark that nobody has decided on in all prepared targets; returns how many matches were made."""
        gate = self.presenter.can_match
        if not gate.enabled:
            raise InputError(gate.reason)
        return self.bench.match(again=True)

    def accept(self, label: str, target: Any) -> None:
        """Confirm the match of a landmark in a target."""
        self.bench.accept(self.keyOf(label), target.GetID())

    def reject(self, label: str, target: Any) -> None:
        """Mark the match of a landmark in a target as wrong."""
        self.bench.reject(self.keyOf(label), target.GetID())

    def export(self, folder: str | Path, extension: str = ".mrk.json") -> list[Path]:
        """Write the landmarks of every volume, each in the frame of its own file; returns the paths."""
        return self.bench.export(folder, extension)

    def keyOf(self, label: str) -> int:
        """The landmark with a label; InputError where there is none, or more than one."""
        keys = [r.key for r in self.presenter.table.landmarks if r.label == label]
        if len(keys) != 1:
            raise InputError(_("{count} landmarks are called '{label}', not one.").format(count=len(keys), label=label))
        return keys[0]


class UniversalAnatomicalEmbeddingTest(ScriptedLoadableModuleTest):
    """The self test of the application: it embeds two phantoms and finds the landmarks of one in the other."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run the tests."""
        self.setUp()
        self.test_phantoms()

    def test_phantoms(self) -> None:
        """Landmarks of a phantom patient are found in another one."""
        from UniversalAnatomicalEmbeddingLib.phantom import demo_pair

        pair = demo_pair(coarsening=2.0)
        template, target = (mrml.volume_to_node(slicer.mrmlScene, v) for v in (pair.template, pair.target))
        logic = UniversalAnatomicalEmbeddingLogic()
        try:
            logic.setTemplate(template)
            self.assertEqual(set(logic.prepare([template, target]).values()), {"ready"})
            for label, point in pair.template_landmarks:
                logic.place(label, mrml.flipped(point)[0])
            truth = dict(pair.target_landmarks)
            table = logic.presenter.table
            found = {r.label: logic.bench.world(r.key, target.GetID()) for r in table.landmarks if r.label in truth}
            errors = sorted(math.dist(where, truth[label]) if where else math.inf for label, where in found.items())
            self.assertLess(errors[len(errors) // 2], 15.0)
            self.delayDisplay(f"{len(errors)} landmarks, median error {errors[len(errors) // 2]:.1f} mm")
        finally:
            logic.close()

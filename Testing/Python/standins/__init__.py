"""Stand-ins for what only the Slicer application has, so that the module's real classes run here over real MRML and real Qt.

``install(scene)`` puts them in place: the modules ``qt``, ``ctk``, ``slicer.ScriptedLoadableModule``, ``slicer.i18n``,
``slicer.parameterNodeWrapper``, and ``slicer.app``, ``slicer.mrmlScene``. With the environment variable SLICER_PY naming the folder
``Base/Python/slicer`` of Slicer's sources, the genuine Python files are taken instead of those stand-ins that exist there.
"""

from .application import install

__all__ = ["install"]

"""Which packages are missing or too old, the question to ask before installing them, and who installs them.

Nothing is imported to find out. SimpleITK, numpy and vtk belong to Slicer: another build of them can break or crash it, so they are never installed
here; where Slicer's own are too old, a newer Slicer is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Literal, Protocol

from .errors import InputError
from .language import tr as _

Provider = Literal["pytorch-extension", "pip", "slicer"]
NEVER_INSTALLED = ("SimpleITK", "numpy", "vtk")
REQUESTER = "UniversalAnatomicalEmbedding"


@dataclass(frozen=True)
class Requirement:
    """A package, the oldest version that works, and where it comes from inside Slicer."""

    name: str
    minimum: str
    provider: Provider

    def __str__(self) -> str:
        return f"{self.name}>={self.minimum}"


REQUIREMENTS = (
    Requirement("torch", "2.4", "pytorch-extension"),
    Requirement("scipy", "1.11", "pip"),
    Requirement("safetensors", "0.4", "pip"),
    Requirement("numpy", "1.26", "slicer"),
    Requirement("SimpleITK", "2.3", "slicer"),
)


@dataclass(frozen=True)
class Problem:
    """A requirement that is not met; ``found`` is the version there, None when the package is missing."""

    requirement: Requirement
    found: str | None

    def __str__(self) -> str:
        found = _("found {version}").format(version=self.found) if self.found else _("missing")
        return _("{name} {version} or newer ({found})").format(name=self.requirement.name, version=self.requirement.minimum, found=found)


class Installer(Protocol):
    """Whoever can install packages into the running Python. Raises InputError when it cannot."""

    def install_torch(self, requirement: Requirement) -> None:
        """Install a build of torch that fits this computer."""

    def install(self, requirements: Sequence[Requirement]) -> None:
        """Install packages by pip."""


def installed_version(name: str) -> str | None:
    """The version of an installed package, None when it is missing; the package is not imported.

    "" for one of Slicer's own that is there without saying its version (Slicer builds some of them itself).
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "" if name in NEVER_INSTALLED and importlib.util.find_spec(name) else None


def find_problems(version_of: Callable[[str], str | None] = installed_version) -> list[Problem]:
    """The requirements that are not met, in their order; empty when everything is there."""
    found = [(requirement, version_of(requirement.name)) for requirement in REQUIREMENTS]
    return [Problem(r, version) for r, version in found if version is None or (version and _numbers(version) < _numbers(r.minimum))]


def question(problems: Sequence[Problem]) -> str:
    """What to ask the user before :func:`install`. Raises InputError for problems that must not be solved by installing."""
    _refuse_slicers_own(problems)
    asked = _("Finding anatomy needs {packages}. Install into Slicer's Python now?").format(packages=_listed(problems))
    if any(p.requirement.name == "torch" for p in problems):
        asked += " " + _("PyTorch is a download of 0.2 to 3 GB, a few minutes.")
    return asked


def install(problems: Sequence[Problem], installer: Installer, version_of: Callable[[str], str | None] = installed_version) -> None:
    """Install what is missing; call it in the main thread of Slicer, after the user agreed to :func:`question`.

    Raises InputError when it must not be installed here, the installer fails, or something is still missing afterwards.
    """
    _refuse_slicers_own(problems)
    by_pip = [p.requirement for p in problems if p.requirement.provider == "pip"]
    for problem in problems:
        if problem.requirement.provider == "pytorch-extension":
            installer.install_torch(problem.requirement)
    if by_pip:
        installer.install(by_pip)
    importlib.invalidate_caches()
    left = find_problems(version_of)
    if left:
        sentence = _("After the installation these are still wrong: {packages}. Restart Slicer and try again.")
        raise InputError(f"{sentence.format(packages=_listed(left))}\n\n{offline_text(left)}")


def offline_text(problems: Sequence[Problem], python: str = sys.executable) -> str:
    """How to install without the internet, or where a firewall blocks it: wheels fetched on another computer."""
    wanted = " ".join(f'"{p.requirement}"' for p in problems if p.requirement.name not in NEVER_INSTALLED)
    if not wanted:
        return ""
    tag = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = (
        _("Without internet access:"),
        _("1. On a computer with internet access, the same operating system and Python {version}:").format(version=tag),
        f"   python -m pip download --only-binary :all: --dest wheels {wanted}",
        _(
            "2. Carry the folder wheels here. Delete from it the files whose names begin with numpy, simpleitk or vtk: Slicer brings its own."
        ),
        _("3. In a terminal here:"),
        f'   "{python}" -m pip install --no-index --find-links wheels {wanted}',
        _("4. Restart Slicer."),
    )
    return "\n".join(lines)


class SlicerInstaller:
    """Installs into Slicer: torch through the extension PyTorch, the others by Slicer's own pip functions.

    ``load`` imports a module by name (``importlib.import_module``) and raises ImportError where it does not exist.
    """

    def __init__(self, load: Callable[[str], ModuleType | Any] = importlib.import_module) -> None:
        self._load = load

    def install_torch(self, requirement: Requirement) -> None:
        """Install the build that the PyTorch extension finds fitting; InputError where that extension is not there."""
        try:
            logic = self._load("PyTorchUtils").PyTorchUtilsLogic()
        except ImportError:
            raise InputError(
                _("The extension PyTorch is needed to install torch. Install it in the Extensions Manager, restart Slicer and try again.")
            ) from None
        with _readable("torch"):
            installed = logic.installTorch(askConfirmation=False, torchVersionRequirement=f">={requirement.minimum}")
        if installed is None:
            raise InputError(_("torch was not installed. See the Python console for the reason, then try again."))

    def install(self, requirements: Sequence[Requirement]) -> None:
        """Install by ``pip_install``, with a progress dialog in the Slicer versions that have one; packages of Slicer's own stay as they are."""
        names = [str(requirement) for requirement in requirements]
        with _readable(", ".join(r.name for r in requirements)):
            for module in ("slicer.pydeps", "slicer.packaging"):
                try:
                    pip_install = self._load(module).pip_install
                except (ImportError, AttributeError):
                    continue
                pip_install(names, skip_packages=list(NEVER_INSTALLED), requester=REQUESTER)
                return
            self._load("slicer.util").pip_install([*names, "--no-deps"])


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns the failure of an installation into an InputError."""
    try:
        yield
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        sentence = _("{packages} could not be installed ({reason}). Check the internet access, or install offline.")
        raise InputError(sentence.format(packages=what, reason=error)) from error


def _refuse_slicers_own(problems: Sequence[Problem]) -> None:
    own = [p for p in problems if p.requirement.provider == "slicer"]
    if own:
        sentence = _("This Slicer is too old or damaged: {packages} comes with Slicer and is never replaced. Install Slicer 5.10 or newer.")
        raise InputError(sentence.format(packages=_listed(own)))


def _listed(problems: Sequence[Problem]) -> str:
    return ", ".join(str(problem) for problem in problems)


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version: "2.13.0+cpu" is (2, 13, 0), and 2.4.0rc1 counts as 2.4.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(n) for n in match.group().split(".")] if match else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

"""What runs here: package versions, devices tried with a real convolution, and the report a user can copy into a question.

Importing this file loads no package; :func:`probe_device` and :func:`devices` need torch.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from .version import VERSION

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "safetensors", "vtk", "slicer-core")
GIB = 2**30


@dataclass(frozen=True)
class DeviceProbe:
    """Whether a device computes: ``ok`` after a convolution whose result was compared with the CPU's, else ``note`` says why not.

    ``seconds`` of that convolution (the first one, with its start-up), ``memory_bytes`` in all and ``free_bytes`` (0: not known).
    """

    device: str
    title: str
    ok: bool
    seconds: float
    memory_bytes: int = 0
    free_bytes: int = 0
    note: str = ""


def versions() -> dict[str, str]:
    """This package, Python, the system and the packages that matter, "" for those that are not installed; nothing is imported."""
    found = dict.fromkeys(PACKAGES, "")
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "UniversalAnatomicalEmbedding": VERSION,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {os.cpu_count()} cores",
        **found,
    }


def devices() -> list[str]:
    """The devices that torch says it has: "cpu", then "cuda:0" and so on, "mps"."""
    import torch

    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def probe_device(device: str) -> DeviceProbe:
    """Run one small 3-D convolution as the embedding does (half precision on CUDA) and compare it with float32 on the CPU.

    A torch build that lacks kernels for a GPU sees it and fails only here. Nothing is raised for a device that does not work.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, 8, 16, 16, 16), generator=generator)
    kernel = torch.randn((16, 8, 3, 3, 3), generator=generator) / 8
    title = platform.processor() or platform.machine()
    memory, free, start = 0, 0, time.perf_counter()
    try:
        if device.startswith("cuda"):
            title = torch.cuda.get_device_name(device)
            free, memory = torch.cuda.mem_get_info(device)
        on_gpu = device.startswith("cuda")
        with torch.inference_mode(), torch.autocast("cuda" if on_gpu else "cpu", torch.float16, enabled=on_gpu):
            found = torch.nn.functional.conv3d(image.to(device), kernel.to(device)).float().cpu()
        error = float((found - torch.nn.functional.conv3d(image, kernel)).abs().max())
        note = "" if error < 0.05 else f"it computes wrong results (error {error:.3g})"
    except Exception as failure:  # whatever a driver, a missing kernel or a full device raises is the answer
        note = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
    return DeviceProbe(device, title, not note, time.perf_counter() - start, memory, free, note)


def probe() -> dict[str, Any]:
    """Versions, the torch build and every device tried, as plain values for :func:`diagnostics_text`."""
    import torch

    build = {
        "cuda": torch.version.cuda or "none",
        "kernels": " ".join(torch.cuda.get_arch_list()),
        "threads": torch.get_num_threads(),
    }
    return {"versions": versions(), "torch_build": build, "devices": [asdict(probe_device(d)) for d in devices()]}


def diagnostics_text(
    found: Mapping[str, Any], cache_folder: str, cache_entries: Sequence[tuple[str, int, float]], cache_cap_bytes: int, worker_log: str = ""
) -> str:
    """The report for the diagnostics box: ``found`` from :func:`probe` (or only its "versions", where torch is missing), and the cache.

    ``cache_entries`` as :meth:`Cache.entries` lists them; ``worker_log`` the last lines of the worker's error stream.
    """
    width = max(len(name) for name in found["versions"])
    rows = [f"{name:{width}}  {version or 'not installed'}" for name, version in found["versions"].items()]
    if "torch_build" in found:
        build = found["torch_build"]
        rows.append(f"{'torch build':{width}}  CUDA {build['cuda']}, {build['threads']} threads, GPU kernels: {build['kernels'] or 'none'}")
    rows += [f"{device['device']:{width}}  {_describe(device)}" for device in found.get("devices", [])]
    used = sum(size for _, size, _ in cache_entries)
    rows.append(f"{'cache':{width}}  {len(cache_entries)} scans, {used / GIB:.2f} of {cache_cap_bytes / GIB:.0f} GiB, {cache_folder}")
    if worker_log:
        rows += ["", "worker:", *worker_log.splitlines()]
    return "\n".join(rows)


def _describe(device: Mapping[str, Any]) -> str:
    memory = f", {device['free_bytes'] / GIB:.1f} of {device['memory_bytes'] / GIB:.1f} GiB free" if device["memory_bytes"] else ""
    verdict = f"works ({device['seconds']:.2f} s)" if device["ok"] else f"does not work: {device['note']}"
    return f"{device['title']}{memory}, {verdict}"

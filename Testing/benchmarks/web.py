"""The browser face on this machine: ``python Testing/benchmarks/web.py [start|click|memory] [SCAN ...]``.

``start``: from the command to the first picture of a scan in the browser, and of the server's first answer. ``click``: from pressing the mouse button
in the template to the match drawn in the target, median of 50. ``memory``: of server and worker with four chest CTs open and prepared. Without
scans: made-up patients. Needs Chromium and the packages of the extras web and test.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python"))
from browser import Page, Server, browsing, chromium_running, serving

from UniversalAnatomicalEmbeddingLib.images import write_volume
from UniversalAnatomicalEmbeddingLib.phantom import demo_pair

CLICKS = 50


def start(scans: list[Path]) -> str:
    """From the command to the first picture."""
    with chromium_running() as chrome, browsing(chrome) as context, serving(str(scans[0])) as server:
        answered = time.perf_counter() - server.started
        page = Page(context, server.address)
        page.wait_rows(1)
        return f"server answers {answered:.1f} s after the command, first picture of a scan {time.perf_counter() - server.started:.1f} s"


def click(scans: list[Path]) -> str:
    """From pressing the button to the match drawn in the target's axial view."""
    seconds = []
    with chromium_running() as chrome, browsing(chrome) as context, serving(*map(str, scans[:2])) as server:
        page = Page(context, server.address)
        page.wait_rows(2)
        page.prepare(2)
        page.page.wait_for_timeout(3000)
        page.page.click("#place")
        for n in range(CLICKS):
            place = (0.35 + 0.3 * (n % 7) / 7, 0.35 + 0.3 * (n % 11) / 11)
            page.move(0, 0, *place)
            page.page.wait_for_timeout(600)
            before = _drawn(page)
            begin = time.perf_counter()
            page.page.mouse.down()
            page.page.mouse.up()
            while _drawn(page) == before and time.perf_counter() - begin < 20:
                pass
            seconds.append(time.perf_counter() - begin)
    return f"click to drawn match: median {1000 * statistics.median(seconds):.0f} ms, slowest {1000 * max(seconds):.0f} ms of {CLICKS}"


def memory(scans: list[Path]) -> str:
    """Resident memory of the server and its worker with four scans prepared."""
    four = (scans * 4)[:4]
    with chromium_running() as chrome, browsing(chrome) as context, serving(*map(str, four)) as server:
        page = Page(context, server.address)
        page.wait_rows(4)
        opened = _resident(server)
        page.prepare(4)
        page.page.wait_for_timeout(3000)
        prepared = _resident(server)
    return f"four scans open: {sum(opened):.0f} MiB; prepared: {sum(prepared):.0f} MiB (server {prepared[0]:.0f}, worker {sum(prepared[1:]):.0f})"


def _drawn(page: Page) -> str:
    """A fingerprint of the picture in the target's axial view."""
    source = page.page.locator(".row").nth(1).locator(".view").first.locator("img").first.get_attribute("src") or ""
    return hashlib.sha256(source.encode()).hexdigest()


def _resident(server: Server) -> list[float]:
    """MiB of the server process and each of its children."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    every = [Path(f"/proc/{server.process.pid}/task").iterdir()]
    children += [c for task in every[0] for c in (task / "children").read_text().split() if c not in children]
    status = [Path(f"/proc/{pid}/status").read_text() for pid in (str(server.process.pid), *children)]
    return [int(text.split("VmRSS:")[1].split()[0]) / 1024 for text in status]


def main() -> None:
    """Run one measurement, or each in turn."""
    jobs: dict[str, Callable[[list[Path]], str]] = {"start": start, "click": click, "memory": memory}
    chosen = [name for name in sys.argv[1:2] if name in jobs] or list(jobs)
    with tempfile.TemporaryDirectory() as folder:
        scans = [Path(path) for path in sys.argv[1:] if path not in jobs]
        if not scans:
            scans = [Path(folder) / f"{name}.nii.gz" for name in ("first", "second")]
            pair = demo_pair()
            for volume, path in zip((pair.template, pair.target), scans, strict=True):
                write_volume(volume, path)
        for name in chosen:
            print(f"{name}: {jobs[name](scans)}", flush=True)


if __name__ == "__main__":
    main()

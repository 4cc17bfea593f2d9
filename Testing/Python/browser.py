"""A running ``uae serve`` and a real headless Chromium in front of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from requires import needs

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
STARTING_S, STOPPING_S = 90, 15


def needs_browser() -> None:
    """Skip the calling test file without trame-slicer, playwright and Chromium; with UAE_REQUIRE_GUI=1 fail it."""
    needs("trame_slicer", "UAE_REQUIRE_GUI")
    needs("playwright.sync_api", "UAE_REQUIRE_GUI")
    if chromium() is None:
        assert os.environ.get("UAE_REQUIRE_GUI") != "1", "Chromium is needed and not installed"
        pytest.skip("needs Chromium; set UAE_REQUIRE_GUI=1 to make this a failure", allow_module_level=True)


def chromium() -> str | None:
    """The browser that is installed."""
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


class Server:
    """A ``uae serve`` process. ``address``: what it told to open; ``temporary``: where it keeps uploads while it runs."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="uae-test-"))
        paths = os.pathsep.join([str(REPOSITORY / "UniversalAnatomicalEmbedding"), str(REPOSITORY)])
        variables = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "UAE_WEB_TOKEN")}
        variables |= {"PYTHONPATH": paths, "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"} | (environment or {})
        command = [sys.executable, "-m", "UniversalAnatomicalEmbeddingLib.commands", "serve", *arguments]
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self._wait_for_address()

    def stop(self) -> int:
        """Ask the server to end, as a service manager does; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOPPING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(5)
        return status

    def clean(self) -> None:
        """Stop it, whatever the test did, and remove what it left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip())

    def _wait_for_address(self) -> str:
        end = time.perf_counter() + STARTING_S
        while time.perf_counter() < end and self.process.poll() is None:
            for line in list(self.lines):
                if line.startswith("Open http"):
                    return line.removeprefix("Open ")
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError("the server did not start:\n" + "\n".join(self.lines[-30:]))


@contextmanager
def serving(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server for the time of a test."""
    server = Server(*arguments, environment=environment)
    try:
        yield server
    finally:
        server.clean()


@contextmanager
def chromium_running() -> Iterator[Any]:
    """One Chromium for all tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browsing(browser: Any, width: int = 1280, height: int = 800) -> Iterator[Any]:
    """A browser context: pages in it share cookies, as the tabs of one browser do; those of another do not."""
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    try:
        yield context
    finally:
        context.close()


class Page:
    """The page as a person uses it."""

    def __init__(self, context: Any, address: str) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.set_default_timeout(60_000)
        self.page.goto(address)

    def wait_rows(self, count: int) -> None:
        """Until so many scans are drawn in all their views."""
        self.page.wait_for_function("n => document.querySelectorAll('.row .view img').length >= n", arg=3 * count)
        assert self.page.locator(".row").count() == count

    def prepare(self, count: int) -> None:
        """Embed all scans."""
        self.page.click("#prepare")
        self.page.wait_for_function("n => document.querySelectorAll('.state.ready').length >= n", arg=count, timeout=180_000)

    def view(self, row: int, column: int) -> dict[str, float]:
        """Where a view is on the page: x, y, width, height in pixels."""
        return self.page.locator(".row").nth(row).locator(".view").nth(column).bounding_box()

    def move(self, row: int, column: int, x: float, y: float) -> None:
        """Move the mouse to a place in a view, in shares of its size."""
        box = self.view(row, column)
        self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        self.page.wait_for_timeout(60)

    def click(self, row: int, column: int, x: float, y: float) -> None:
        """Come to a place in a view, and click."""
        self.move(row, column, x - 0.03, y - 0.03)
        self.move(row, column, x, y)
        self.page.mouse.down()
        self.page.mouse.up()

    def drag(self, row: int, column: int, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Take what is at a place and put it down elsewhere."""
        for before in (0.03, 0.01, 0.0):
            self.move(row, column, start[0] - before, start[1])
        self.page.wait_for_timeout(400)
        self.page.mouse.down()
        for share in (0.3, 0.6, 1.0):
            self.move(row, column, *(a + share * (b - a) for a, b in zip(start, end, strict=True)))
        self.page.mouse.up()

    def cells(self) -> list[str]:
        """Status of every match in the table, row by row."""
        return [
            next(c for c in (cell.get_attribute("class") or "").split() if c != "cell") for cell in self.page.locator("#table .cell").all()
        ]

    def wait_cells(self, wanted: str, count: int, timeout_s: float = 30) -> None:
        """Until so many matches have one of these statuses (joined by commas)."""
        selector = ",".join(f"#table .cell.{status}" for status in wanted.split(","))
        self.page.wait_for_function(
            "([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, count], timeout=1000 * timeout_s
        )

    def labels(self) -> list[str]:
        """Names of the landmarks."""
        return [text.strip() for text in self.page.locator("#table td.label").all_inner_texts()]

    def message(self) -> str:
        """The sentence at the bottom of the page."""
        return self.page.locator(".snack span").inner_text()

    def picture(self, row: int, column: int) -> bytes:
        """What a view shows, compressed."""
        return self.page.locator(".row").nth(row).locator(".view").nth(column).screenshot()

    def slices(self, row: int) -> list[float]:
        """Where the views of a row are along their axes, mm."""
        return [float(slider.input_value()) for slider in self.page.locator(".row").nth(row).locator(".slice").all()]

    def download(self, selector: str) -> tuple[str, bytes]:
        """Name and content of what a link downloads."""
        with self.page.expect_download() as waiting:
            self.page.click(selector)
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

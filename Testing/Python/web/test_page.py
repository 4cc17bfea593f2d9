"""The whole way in a real browser: open, prepare, click, see, drag, undo, judge, export, import, register, and what is refused."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from browser import Page, Server, browsing, chromium_running, needs_browser, serving

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, write_volume
from UniversalAnatomicalEmbeddingLib.landmarks.points import read_points
from UniversalAnatomicalEmbeddingLib.phantom.patient import demo_pair

needs_browser()
MATCHED = "found,uncertain,absent"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two made-up patients, small, as files; the third is many times as long, so that it takes its time."""
    folder = tmp_path_factory.mktemp("patients")
    pair = demo_pair(coarsening=2.5)
    long = np.tile(pair.target.array, (5, 1, 1))
    volumes = (pair.template, pair.target, Volume(long, Grid(long.shape, pair.target.grid.affine), "ct"))
    paths = [folder / f"{name}.nii.gz" for name in ("first", "second", "long")]
    for volume, path in zip(volumes, paths, strict=True):
        write_volume(volume, path)
    return paths


@pytest.fixture(scope="module")
def server(patients: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with both patients open, and their folder to browse."""
    cache = tmp_path_factory.mktemp("cache")
    with serving(*map(str, patients[:2]), "--root", str(patients[0].parent), "--cache", str(cache), "--upload-limit", "1") as started:
        yield started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with chromium_running() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(chrome: Any) -> Iterator[Any]:
    with browsing(chrome) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(server: Server, context: Any) -> Page:
    """The page, both scans drawn and prepared; the tests below use it one after the other."""
    page = Page(context, server.address)
    page.wait_rows(2)
    page.prepare(2)
    return page


def stop_placing(page: Page) -> None:
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector("#place:not(.on)")


def test_a_click_in_the_template_shows_the_match_within_two_seconds_and_turns_the_target_only(page: Page) -> None:
    page.page.click("#place")
    page.page.wait_for_selector("#place.on")
    page.page.wait_for_timeout(1500)
    slices, drawn = [page.slices(row) for row in (0, 1)], page.picture(1, 1)
    seconds = []
    for count, place in enumerate([(0.5, 0.7), (0.4, 0.45), (0.6, 0.5)], start=1):  # place mode goes on
        start = time.perf_counter()
        page.click(0, 0, *place)
        page.wait_cells(MATCHED, count)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2.0, seconds  # the best of three: other work on the machine is no fault of the page
    page.page.wait_for_timeout(1000)
    assert page.slices(0) == slices[0] and page.slices(1) != slices[1]
    assert page.picture(1, 1) != drawn
    stop_placing(page)
    page.page.keyboard.press("Control+z")
    page.wait_cells(MATCHED, 2)
    assert page.cells()[0] in ("found", "uncertain")


def test_dragging_a_match_corrects_it_and_undo_brings_it_back(page: Page) -> None:
    page.page.locator("#table tbody tr").first.locator("td").nth(1).click()
    page.page.wait_for_timeout(800)
    status = page.cells()[0]
    page.drag(1, 0, (0.5, 0.5), (0.6, 0.55))  # the views are centred on the match
    page.wait_cells("corrected", 1)
    page.page.click("#undo")
    page.wait_cells("corrected", 0)
    assert page.cells()[0] == status
    page.page.keyboard.press("Control+Shift+Z")
    page.wait_cells("corrected", 1)
    page.page.keyboard.press("Control+Z")
    page.wait_cells("corrected", 0)


def test_dragging_a_landmark_of_the_template_matches_it_again(page: Page, server: Server) -> None:
    before = exported(page, "A"), exported(page, "B")
    page.page.locator("#table tbody tr").nth(0).locator("td").first.click()
    page.page.wait_for_timeout(800)
    page.drag(0, 0, (0.5, 0.5), (0.46, 0.44))
    page.page.wait_for_timeout(1500)
    after = exported(page, "A"), exported(page, "B")
    moved = np.linalg.norm(np.subtract(after[0].points[0].position_lps, before[0].points[0].position_lps))
    assert 5 < moved < 60 and after[0].points[1] == before[0].points[1]
    assert after[1].points[0] != before[1].points[0]
    page.page.keyboard.press("Control+Z")
    page.page.wait_for_timeout(800)
    assert exported(page, "A").points[0].position_lps == pytest.approx(before[0].points[0].position_lps)


def test_accept_reject_step_rename_and_delete(page: Page) -> None:
    rows = page.page.locator("#table tbody tr")
    rows.nth(0).locator("td").nth(1).click()
    page.page.keyboard.press("a")
    page.wait_cells("accepted", 1)
    page.page.keyboard.press("n")
    page.page.wait_for_selector("#table tbody tr:nth-of-type(2).selected")
    page.page.click("#reject")
    page.wait_cells("rejected", 1)
    rows.nth(1).locator("td.label").dblclick()
    page.page.locator(".rename").fill("carina <b>")
    page.page.keyboard.press("Enter")
    page.page.wait_for_function("document.querySelectorAll('#table td.label')[1].innerText.includes('carina <b>')")
    assert page.page.locator("#table td.label b").count() == 0
    page.page.keyboard.press("Delete")
    page.page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 1")
    page.page.click("#undo")
    page.page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 2")
    assert page.cells() == ["accepted", "rejected"] and page.labels()[1] == "carina <b>"


def test_what_is_exported_can_be_read_and_imported_again(page: Page, tmp_path: Path) -> None:
    template = exported(page, "A")
    assert template.labels[1] == "carina <b>" and len(template.positions()) == 2
    page.page.click("#export")
    name, everything = page.download("#export-all")
    lines = everything.decode().splitlines()
    assert name == "landmarks.csv" and len(lines) == 1 + 2 * 2 and ",accepted," in everything.decode()
    page.page.keyboard.press("Escape")
    path = tmp_path / "again.mrk.json"
    path.write_bytes(raw(page, "A.mrk.json"))
    page.page.keyboard.press("o")
    page.page.set_input_files("#upload", str(path))
    page.wait_cells(MATCHED, 2)
    page.page.keyboard.press("Escape")
    assert page.labels() == list(template.labels)
    assert exported(page, "A").positions() == pytest.approx(template.positions(), abs=1e-3)


def test_the_similarity_map_and_the_live_cursor_change_the_target_only(page: Page) -> None:
    page.page.locator("#table tbody tr").first.locator("td").first.click()
    page.page.wait_for_timeout(1200)
    plain, template = page.picture(1, 1), page.picture(0, 1)
    page.page.click("#overlay")
    page.page.wait_for_timeout(1500)
    assert page.picture(1, 1) != plain and page.picture(0, 1) == template
    page.page.keyboard.press("s")
    page.page.wait_for_timeout(1000)
    before = page.picture(1, 2)
    page.page.keyboard.press("c")
    page.page.wait_for_selector("#cursor.on")
    page.move(0, 0, 0.55, 0.5)
    page.page.keyboard.down("Shift")
    page.move(0, 0, 0.60, 0.52)
    page.move(0, 0, 0.62, 0.55)
    page.page.keyboard.up("Shift")
    page.page.wait_for_timeout(1200)
    assert page.picture(1, 2) != before
    page.page.keyboard.press("c")


def test_presets_change_the_picture(page: Page) -> None:
    before = page.picture(1, 0)
    page.page.locator(".row").nth(1).locator("select").select_option("Lung")
    page.page.wait_for_timeout(800)
    assert page.picture(1, 0) != before


def test_registration_runs_shows_before_and_after_and_gives_its_transform(page: Page, tmp_path: Path) -> None:
    plain = page.picture(0, 1)
    page.page.select_option("#reg-stage", "rigid")
    page.page.click("#register")
    page.page.wait_for_selector("#show-after.on", timeout=180_000)
    page.page.wait_for_timeout(1000)
    after = page.picture(0, 1)
    page.page.click("#show-before")
    page.page.wait_for_timeout(1000)
    before = page.picture(0, 1)
    assert len({plain, before, after}) == 3
    name, content = page.download("#transform")
    (tmp_path / name).write_bytes(content)
    assert name == "second_to_first.h5"
    matrix = np.array(sitk.AffineTransform(sitk.ReadTransform(str(tmp_path / name))).GetMatrix()).reshape(3, 3)
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-6)
    page.page.click("#show-off")
    page.page.wait_for_timeout(1000)
    assert page.picture(0, 1) == plain


def test_bad_uploads_are_refused_with_one_sentence(page: Page, tmp_path: Path) -> None:
    bad, large = tmp_path / "bad.nii.gz", tmp_path / "large.nii.gz"
    bad.write_bytes(b"this is no image")
    large.write_bytes(b"\0" * (2 << 20))
    for path, words in ((bad, "bad.nii.gz"), (large, "larger than the 1 MiB")):
        page.page.keyboard.press("o")
        page.page.set_input_files("#upload", str(path))
        page.page.wait_for_function("w => (document.querySelector('.snack span') || {}).innerText?.includes(w)", arg=words)
        assert "/" not in page.message().replace("a .nii/", "")
        page.page.keyboard.press("Escape")
    assert page.page.locator(".row").count() == 2


def test_the_folder_of_the_server_can_be_opened_and_nothing_beside_it(page: Page) -> None:
    page.page.keyboard.press("o")
    page.page.locator("#browse button", has_text="second.nii.gz").click()
    page.wait_rows(3)
    page.page.evaluate("window.trame.trigger('do', ['open_root', '../../../../etc/passwd'])")
    page.page.wait_for_function("(document.querySelector('.snack span') || {}).innerText?.includes('There is no')")
    page.page.evaluate("window.trame.trigger('do', ['browse', '..'])")
    page.page.wait_for_timeout(500)
    assert page.page.evaluate("window.trame.state.get('browse').entries.length") == 3
    close_last(page)


def test_preparing_can_be_cancelled(page: Page) -> None:
    page.page.keyboard.press("o")
    page.page.locator("#browse button", has_text="long.nii.gz").click()
    page.wait_rows(3)
    page.page.click("#prepare")
    page.page.wait_for_selector(".state.preparing .fill")
    start = time.perf_counter()
    page.page.click("#prepare")
    page.page.wait_for_function("document.querySelectorAll('.state.preparing').length === 0")
    assert time.perf_counter() - start < 3
    assert page.page.locator(".state.ready").count() == 2
    close_last(page)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_nothing_overlaps_and_nothing_is_cut_off(page: Page, width: int, height: int) -> None:
    page.page.set_viewport_size({"width": width, "height": height})
    page.page.wait_for_timeout(1500)
    overlapping = page.page.evaluate(
        """() => {
          const seen = [...document.querySelectorAll('.bar > *, .title > *, .panel button, .panel select, .panel input, .views, .hint')]
            .filter((e) => e.getClientRects().length && !e.matches('.space, .divider'));
          const boxes = seen.map((e) => [e, e.getBoundingClientRect()]);
          const bad = [];
          for (const [e, a] of boxes) {
            if (a.right > innerWidth + 1 || a.bottom > innerHeight + 1) bad.push(e.outerHTML.slice(0, 80) + ' outside');
            for (const [f, b] of boxes)
              if (e !== f && !e.contains(f) && !f.contains(e) && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
                bad.push(e.outerHTML.slice(0, 60) + ' over ' + f.outerHTML.slice(0, 60));
          }
          return bad;
        }"""
    )
    page.page.set_viewport_size({"width": 1280, "height": 800})
    assert overlapping == []


def test_help_lists_the_shortcuts(page: Page) -> None:
    page.page.keyboard.press("?")
    text = page.page.locator("#shortcuts").inner_text()
    assert "accept, reject" in text and "Ctrl+Z" in text
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector("#shortcuts", state="detached")


def test_a_second_browser_is_told_that_the_session_is_taken(page: Page, server: Server, chrome: Any) -> None:
    with browsing(chrome) as other:
        second = other.new_page()
        answer = second.goto(server.address)
        assert answer.status == 409 and "in use" in second.inner_text("p")


def test_the_page_made_no_errors(page: Page) -> None:
    """Everything above was done without an error in the browser but the two uploads that were meant to fail."""
    assert [e for e in page.errors if not re.search("status of 4(00|13)", e)] == []


def test_a_dropped_connection_comes_back_to_the_same_session(page: Page) -> None:
    labels, cells = page.labels(), page.cells()
    page.page.evaluate("window.stayed = true; window.trame.client.getConnection().getSession().close()")
    page.page.wait_for_function("!window.stayed && document.querySelectorAll('.row .view img').length >= 6", timeout=30_000)
    assert page.labels() == labels and page.cells() == cells


def test_real_scans_match_and_the_server_leaves_nothing_behind(chrome: Any, data_dir: Path, tmp_path: Path) -> None:
    scans = [data_dir / "dev" / "ct" / f"{name}.nii.gz" for name in ("lidc_0001_chest", "cptac_c3n00247_chest")]
    landmarks = scans[0].with_name("lidc_0001_chest.mrk.json")
    arguments = [*map(str, scans), "--landmarks", str(landmarks), "--cache", str(tmp_path)]
    with serving(*arguments) as server, browsing(chrome) as context:
        page = Page(context, server.address)
        page.wait_rows(2)
        page.prepare(2)
        count = len(read_points(landmarks).positions())
        page.wait_cells(MATCHED, count)
        truth = {p.label: p.position_lps for p in read_points(scans[1].with_name("cptac_c3n00247_chest.mrk.json")) if p.position_lps}
        found = {p.label: p.position_lps for p in exported(page, "B") if p.position_lps}
        errors = [np.linalg.norm(np.subtract(found[k], truth[k])) for k in truth.keys() & found.keys()]
        assert len(errors) >= 8 and np.median(errors) < 20
        page.page.click("#place")
        page.page.wait_for_selector("#place.on")
        page.click(0, 0, 0.5, 0.6)
        page.wait_cells(MATCHED, count + 1)
        assert any(server.temporary.iterdir())
        assert server.stop() == 0
        time.sleep(3)  # the worker closes after the page
        assert [p for p in server.temporary.iterdir() if p.name.startswith("uae")] == []


def test_a_host_demands_the_token_that_is_printed(chrome: Any) -> None:
    with serving("--host", "127.0.0.1", environment={"UAE_WEB_TOKEN": "a-token-long-enough"}) as server, browsing(chrome) as context:
        base, _, token = server.address.partition("?token=")
        assert token == "a-token-long-enough" and "".join(server.lines).count(token) == 1
        tab = context.new_page()
        assert tab.goto(base).status == 401 and tab.goto(base + "?token=wrong-token-of-length").status == 403
        for path in ("index.html", "ws", "export/all.csv", "uae/page.js", "paraview/"):
            assert refused(base + path) in (401, 403)
        page = Page(context, server.address)
        page.page.wait_for_selector(".welcome")
        assert token not in page.page.url


# --- helpers --------------------------------------------------------------------------------------------------------------------------


def close_last(page: Page) -> None:
    """Close the third scan."""
    page.page.locator(".row").nth(2).locator("button[title='Close this scan']").click()
    page.page.wait_for_function("document.querySelectorAll('.row').length === 2")


def raw(page: Page, what: str) -> bytes:
    """A download, fetched as the page would."""
    return bytes(page.page.evaluate("w => fetch('/export/' + w).then(r => r.arrayBuffer()).then(b => [...new Uint8Array(b)])", what))


def exported(page: Page, scan: str) -> Any:
    """The landmarks in a scan, as they are downloaded."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.mrk.json"
        path.write_bytes(raw(page, f"{scan}.mrk.json"))
        assert json.loads(path.read_text())["markups"][0]["coordinateSystem"] == "LPS"
        return read_points(path)


def refused(address: str) -> int:
    try:
        with urllib.request.urlopen(address) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

"""Matplotlib primitives for reports: slices in radiological convention, points, match tables, error plots. Stateless; the library never needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from ..images.grid import FloatArray
from ..images.modality import modality_of
from ..images.volume import Volume
from ..matching import Match
from ..system.files import write_atomically
from .evaluation import Outcome

matplotlib.rcParams["svg.fonttype"] = "none"
PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
CT_WINDOW_HU = (-600.0, 400.0)
COLOURS = {"found": "#3ddc84", "uncertain": "#ffb020", "absent": "#9aa0a6"}
INK, PAPER = "#e8eaed", "#101214"


@dataclass(frozen=True)
class Row:
    """One landmark of a report: its name, its place in the template, and one match per target."""

    label: str
    point_lps: FloatArray
    matches: Sequence[Match]


def plane_image(volume: Volume, point_lps: FloatArray, plane: str, size_mm: float = 140.0, step_mm: float = 1.0) -> NDArray[np.float32]:
    """A square cut ``(n, n)`` through a point, in radiological convention (patient's right on the left of the image, head up).

    Any orientation of the scan is honoured; NaN outside the field of view.
    """
    across, down = PLANES[plane]
    offset = np.arange(-size_mm / 2, size_mm / 2 + step_mm / 2, step_mm)
    points = np.tile(np.asarray(point_lps, dtype=float), (len(offset), len(offset), 1))
    points[..., across] += offset[None, :]
    points[..., down] += (offset if down == 1 else -offset)[:, None]
    index = volume.grid.world_to_index(points.reshape(-1, 3))
    sampled = ndimage.map_coordinates(volume.array, index.T, np.float32, order=1, mode="nearest")
    sampled[~volume.grid.contains(points.reshape(-1, 3))] = np.nan
    return sampled.reshape(len(offset), len(offset))


def display_window(volume: Volume) -> tuple[float, float]:
    """Grey limits: a wide mediastinal window for CT, the 1st to 99.5th percentile for anything else."""
    if modality_of(volume) == "ct":
        return CT_WINDOW_HU
    step = max(1, round((volume.array.size / 1_000_000) ** (1 / 3)))
    low, high = np.percentile(volume.array[::step, ::step, ::step], [1, 99.5])
    return float(low), float(max(high, low + 1))


def draw_plane(ax: Axes, volume: Volume, point_lps: FloatArray, plane: str, colour: str | None, size_mm: float = 140.0) -> None:
    """One cut through a point with an open cross-hair (``colour`` None: no mark) and a 5 cm bar."""
    low, high = display_window(volume)
    half = size_mm / 2
    image = plane_image(volume, point_lps, plane, size_mm)
    ax.set_facecolor("black")
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(-half, half, half, -half), interpolation="bilinear")
    if colour:
        for a, b in ((-half, -6), (6, half)):
            ax.plot([a, b], [0, 0], [0, 0], [a, b], color=colour, linewidth=0.5, alpha=0.55)
        ax.plot(0, 0, "o", markersize=7, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.3)
    ax.plot([half - 56, half - 6], [half - 6, half - 6], color="white", linewidth=1.5)
    left, right = ("A", "P") if plane == "sagittal" else ("R", "L")
    for x, text in ((-half + 4, left), (half - 9, right)):
        ax.text(x, 3, text, color="white", fontsize=5, alpha=0.7)
    ax.set_xlim(-half, half)
    ax.set_ylim(half, -half)
    ax.set_xticks([])
    ax.set_yticks([])


def match_report(template: Volume, targets: Sequence[Volume], rows: Sequence[Row], path: Path) -> None:
    """Write ``report.png``: a row per landmark; axial and coronal cuts of the template and of every target, with the verdict."""
    columns = 2 * (1 + len(targets))
    figure = _figure(1.45 * columns + 1.2, 1.5 * len(rows) + 0.6)
    grid = figure.add_gridspec(
        len(rows),
        columns,
        left=1.15 / figure.get_figwidth(),
        right=0.995,
        top=1 - 0.42 / figure.get_figheight(),
        bottom=0.01,
        wspace=0.03,
        hspace=0.16,
    )
    for r, row in enumerate(rows):
        for v, volume in enumerate([template, *targets]):
            match = row.matches[v - 1] if v else None
            point = row.point_lps if match is None else match.point_lps
            colour = "#4da3ff" if match is None else None if match.status == "absent" else COLOURS[match.status]
            for c, plane in enumerate(("axial", "coronal")):
                ax = figure.add_subplot(grid[r, 2 * v + c])
                if match is not None and match.status == "absent":
                    _absent_panel(ax, "not in this scan" if c == 0 else "")
                else:
                    draw_plane(ax, volume, point, plane, colour)
                if r == 0 and c == 0:
                    ax.text(
                        0,
                        1.12,
                        ("template: " if v == 0 else "") + volume.name,
                        transform=ax.transAxes,
                        color=INK,
                        fontsize=8,
                        weight="bold",
                    )
                if c == 0 and match is not None:
                    ax.text(0.02, 1.02, verdict(match), transform=ax.transAxes, color=COLOURS[match.status], fontsize=6)
                if v == 0 and c == 0:
                    ax.text(
                        -0.06,
                        0.5,
                        row.label.replace("_", " "),
                        transform=ax.transAxes,
                        color=INK,
                        fontsize=7,
                        ha="right",
                        va="center",
                        wrap=True,
                    )
    _save(figure, path)


def checkerboard(fixed: Volume, others: Mapping[str, Volume], point_lps: FloatArray, path: Path, squares: int = 8) -> None:
    """Write a picture with one row per scan of ``others``: the fixed scan and that one in alternating squares, three planes through a point.

    Both are shown in their own grey window; a square of the fixed scan is at the upper left.
    """
    size_mm = float(np.ptp(fixed.grid.corners(), axis=0).max())
    figure = _figure(9, 3.05 * len(others) + 0.1)
    axes = figure.subplots(len(others), 3, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.25 / figure.get_figheight(), 0.02, 0.1)
    for row, (title, other) in zip(axes, others.items(), strict=True):
        for ax, plane in zip(row, PLANES, strict=True):
            low, high = zip(*(display_window(v) for v in (fixed, other)), strict=True)
            step = size_mm / 400
            a, b = (
                (plane_image(v, point_lps, plane, size_mm, step) - lo) / (hi - lo)
                for v, lo, hi in zip((fixed, other), low, high, strict=True)
            )
            number = np.arange(len(a)) * squares // len(a)
            draw_image(ax, np.where((number[:, None] + number) % 2 == 0, a, b), plane, size_mm)
        row[0].set_title(f"{title}: {fixed.name} and {other.name}", color=INK, fontsize=8, loc="left")
    _save(figure, path)


def draw_image(ax: Axes, image: NDArray, plane: str, size_mm: float) -> None:
    """A cut scaled to 0..1 with side letters, radiological convention."""
    half = size_mm / 2
    ax.set_facecolor("black")
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(-half, half, half, -half), interpolation="bilinear")
    for x, text in zip((0.02, 0.95), ("A", "P") if plane == "sagittal" else ("R", "L"), strict=True):
        ax.text(x, 0.5, text, transform=ax.transAxes, color="white", fontsize=6, alpha=0.8)
    ax.set_xticks([])
    ax.set_yticks([])


def verdict(match: Match) -> str:
    """The status and confidence of a match in a few words."""
    if np.isnan(match.confidence):
        return f"{match.status}, similarity {match.similarity:.2f}"
    return match.status if match.status == "absent" else f"{match.status}, {100 * match.confidence:.0f} %"


def error_report(outcomes: Sequence[Outcome], volumes: dict[str, Volume], path: Path, worst: int = 8) -> None:
    """Write ``errors.png``: cumulative error of all present queries and the worst cases as crops (truth blue, answer coloured by its status)."""
    present = sorted((o for o in outcomes if o.truth is not None), key=lambda o: -(o.error_mm or 0))
    shown = [o for o in present if o.template in volumes and o.target in volumes][:worst]
    figure = _figure(11, 3.4 + 1.9 * -(-len(shown) // 2))
    grid = figure.add_gridspec(
        1 + -(-len(shown) // 2),
        6,
        height_ratios=[1.6] + [1] * -(-len(shown) // 2),
        hspace=0.3,
        wspace=0.08,
        left=0.06,
        right=0.99,
        top=0.95,
        bottom=0.02,
    )
    _cumulative(figure.add_subplot(grid[0, :]), np.array([o.error_mm for o in present], dtype=float))
    for i, o in enumerate(shown):
        cells = [figure.add_subplot(grid[1 + i // 2, 3 * (i % 2) + k]) for k in range(3)]
        draw_plane(cells[0], volumes[o.template], o.template_point, "axial", "#4da3ff")
        draw_plane(cells[1], volumes[o.target], np.asarray(o.truth), "axial", "#4da3ff")
        draw_plane(cells[2], volumes[o.target], o.match.point_lps, "axial", COLOURS[o.match.status])
        for ax, text in zip(
            cells, (f"{o.label.replace('_', ' ')}", f"truth in {o.target}", f"{o.error_mm:.0f} mm off, {verdict(o.match)}"), strict=True
        ):
            ax.set_title(text, color=INK, fontsize=6, pad=2, loc="left")
    _save(figure, path)


def _cumulative(ax: Axes, errors: FloatArray) -> None:
    ordered = np.sort(errors)
    ax.step(ordered, 100 * np.arange(1, len(ordered) + 1) / len(ordered), color="#4da3ff", where="post")
    ax.axvline(10, color=COLOURS["uncertain"], linewidth=0.8, linestyle="--")
    figures = "no query has a known position"
    if len(errors):
        figures = f"{100 * (errors <= 10).mean():.0f} % within 10 mm, median {np.median(errors):.1f} mm, n = {len(errors)}"
    ax.text(
        10.4,
        4,
        figures,
        color=COLOURS["uncertain"],
        fontsize=8,
    )
    ax.set_facecolor(PAPER)
    ax.set_xlim(0, max(30.0, float(np.percentile(errors, 98)) if len(errors) else 0))
    ax.set_ylim(0, 102)
    ax.set_xlabel("error in mm", color=INK, fontsize=8)
    ax.set_ylabel("queries within, %", color=INK, fontsize=8)
    ax.tick_params(colors=INK, labelsize=7)
    ax.grid(color="#30343a", linewidth=0.4)


def _absent_panel(ax: Axes, text: str) -> None:
    ax.set_facecolor("#1b1e22")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, color=COLOURS["absent"], fontsize=7, ha="center", va="center")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlim(-1, 1)
    ax.set_ylim(-1, 1)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), facecolor=PAPER)


def _save(figure: Figure, path: Path) -> None:
    with write_atomically(path) as staged:
        figure.savefig(staged, dpi=150, facecolor=PAPER, format="png")

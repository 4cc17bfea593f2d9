"""Landmarks: labelled points in LPS millimetres; reading and writing 3D Slicer's ``.mrk.json`` and ``.fcsv``, and ``.csv``."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ..images.grid import flipped
from ..system.errors import InputError
from ..system.files import write_atomically

Status = Literal["defined", "undefined", "missing"]
Position = tuple[float, float, float]

MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
ORIENTATION_LPS = [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0]  # the identity of the RAS frame, as Slicer writes it
IS_RAS = {"RAS": True, "0": True, "LPS": False, "1": False}  # numbers: the enumeration of older versions
UNITS_MM = {"mm": 1.0, "um": 0.001}
FCSV_COLUMNS = ("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID")
FCSV_FLAGS = (0, 0, 0, 1, 1, 1, 0)  # orientation, visible, selected, not locked
FCSV_STATUS_COLUMN = len(FCSV_COLUMNS)  # and behind it "auto-created": Slicer writes both without naming them
OLD_FCSV_COLUMNS = ("label", "x", "y", "z", "sel", "vis")
STATUS_NUMBERS: dict[Status, int] = {"undefined": 0, "defined": 2, "missing": 3}
CSV_COLUMNS = ("label", "x", "y", "z", "description", "id", "status")


@dataclass(frozen=True)
class Point:
    """A landmark: LPS mm position (x, y, z), None unless the status is "defined"; "missing": looked for and not there.

    ``measurements``: finite numbers that belong to the point, such as ``{"confidence": 0.9}``. InputError where these do not fit together.
    """

    label: str
    position_lps: Position | None
    description: str = ""
    id: str = ""
    status: Status = "defined"
    measurements: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise InputError(f"Point '{self.label}' has the unknown status '{self.status}'; use one of {', '.join(get_args(Status))}.")
        if (self.status == "defined") != (self.position_lps is not None):
            raise InputError(f"Point '{self.label}' is {self.status}, which needs {'a' if self.status == 'defined' else 'no'} position.")
        if self.position_lps is not None:
            position = tuple(float(v) for v in self.position_lps)
            if len(position) != 3 or not all(map(math.isfinite, position)):
                raise InputError(f"Point '{self.label}' has the position {position}; three finite numbers (LPS mm) are needed.")
            object.__setattr__(self, "position_lps", position)
        measurements = {name: float(value) for name, value in (self.measurements or {}).items()}
        if not all(map(math.isfinite, measurements.values())):
            raise InputError(f"Point '{self.label}' has a measurement that is no finite number: {measurements}.")
        object.__setattr__(self, "measurements", measurements or None)


@dataclass(frozen=True)
class PointList:
    """Points in file order; labels may repeat."""

    points: tuple[Point, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of all points, the undefined and missing ones too."""
        return tuple(point.label for point in self.points)

    def positions(self) -> NDArray[np.float64]:
        """LPS mm ``(N, 3)`` of the defined points."""
        return np.array([p.position_lps for p in self.points if p.position_lps is not None], dtype=np.float64).reshape(-1, 3)

    def by_label(self, label: str) -> Point:
        """The one point with this label; InputError where there is none, or more than one."""
        found = [point for point in self.points if point.label == label]
        if len(found) != 1:
            raise InputError(f"{len(found)} points are labelled '{label}', not one. Labels: {', '.join(self.labels) or 'none'}.")
        return found[0]


def read_points(path: str | Path) -> PointList:
    """Read ``.mrk.json`` (or ``.json``), ``.fcsv`` or ``.csv`` (columns label, x, y, z in LPS mm, and optionally description, id, status).

    Several lists in one Markups file are put one after the other. Further columns of a ``.csv`` whose cell is a number become measurements.
    The list is named as in the file, else after it. Raises InputError, naming the file (and line), for what cannot be understood.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it again with the encoding UTF-8.") from error
    try:
        if kind == ".json":
            return _parse_markups(text, _stem(path))
        points = _parse_fcsv(text) if kind == ".fcsv" else _parse_csv(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return PointList(tuple(points), _stem(path))


def write_points(points: PointList, path: str | Path) -> None:
    """Write ``.mrk.json`` (or ``.json``), ``.fcsv`` or ``.csv``, always in LPS mm; the file appears complete or not at all.

    Markups hold everything, empty ids apart, which become numbers. ``.csv`` holds everything. ``.fcsv`` has no measurements and no line
    breaks (they become spaces). Raises InputError for another extension and where the file cannot be written.
    """
    path = Path(path)
    kind = _kind(path)
    text = {".json": _format_markups, ".fcsv": _format_fcsv, ".csv": _format_csv}[kind](points)
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist. Create it, or write elsewhere.")
    try:
        with write_atomically(path) as staged:
            staged.write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Check the free space and the permissions, or write elsewhere.") from error


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in (".json", ".fcsv", ".csv"):
        raise InputError(f"{path} has an unknown extension; landmarks are kept in .mrk.json, .fcsv or .csv files.")
    return kind


def _stem(path: Path) -> str:
    return re.sub(r"(\.mrk)?\.(json|fcsv|csv)$", "", path.name, flags=re.IGNORECASE)


def _is_ras(system: object) -> bool:
    """Whether the named system is RAS; else it is LPS."""
    is_ras = IS_RAS.get(str(system).strip().upper())
    if is_ras is None:
        raise InputError(f"its coordinate system is '{system}'; only LPS and RAS are understood. Save it again from Slicer.")
    return is_ras


def _to_lps(position: Sequence[float], is_ras: bool) -> Position:
    x, y, z = flipped(position)[0].tolist() if is_ras else position
    return x, y, z


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e300  # not NaN, nor a whole number beyond what a float holds


def _number(text: str, what: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"line {line}: {what} is '{text}'; a number (mm) is needed.")
    return value


def _parse_markups(text: str, stem: str) -> PointList:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is no valid JSON ({error}). Save it again from Slicer.") from error
    lists = data.get("markups") if isinstance(data, dict) else None
    if not isinstance(lists, list) or not all(isinstance(item, dict) for item in lists):
        raise InputError("it holds no list 'markups', so it is no Slicer Markups file. Save the landmarks from Slicer's Markups module.")
    points = [point for item in lists for point in _parse_list(item)]
    name = str(lists[0].get("name") or stem) if len(lists) == 1 else stem
    return PointList(tuple(points), name)


def _parse_list(markup: dict[str, Any]) -> list[Point]:
    units = markup.get("coordinateUnits", "mm")
    scale = UNITS_MM.get(str(units[0] if isinstance(units, list) and units else units))
    if scale is None:
        raise InputError(f"its coordinates are in '{units}'; only mm and um are understood. Save it again from Slicer.")
    is_ras = _is_ras(markup.get("coordinateSystem", "LPS"))
    controls = markup.get("controlPoints", [])
    if not isinstance(controls, list) or not all(isinstance(item, dict) for item in controls):
        raise InputError("its 'controlPoints' are no list of control points. Save it again from Slicer.")
    values = _parse_measurements(markup.get("measurements"), len(controls))
    return [_parse_control(item, k + 1, scale, is_ras, values[k]) for k, item in enumerate(controls)]


def _parse_control(item: dict[str, Any], number: int, scale: float, is_ras: bool, measurements: dict[str, float]) -> Point:
    """A control point; as in Slicer one without position is undefined, whatever its status says."""
    label, position, status = str(item.get("label", "")), item.get("position"), item.get("positionStatus", "defined")
    if status not in (*get_args(Status), "preview"):
        raise InputError(f"control point {number} ('{label}') has the unknown positionStatus '{status}'.")
    where: Position | None = None
    if status == "defined" and position in (None, ""):
        status = "undefined"
    elif status == "defined":
        if not isinstance(position, list) or len(position) != 3 or not all(map(_is_number, position)):
            raise InputError(f"control point {number} ('{label}') has the position {position}; three finite numbers are needed.")
        where = _to_lps([scale * value for value in position], is_ras)
    return Point(
        label=label,
        position_lps=where,
        description=str(item.get("description", "")),
        id=str(item.get("id", "")),
        status="undefined" if status == "preview" else cast(Status, status),
        measurements=measurements,
    )


def _parse_measurements(items: object, count: int) -> list[dict[str, float]]:
    """For each control point its values; lists of another length (curvature along a curve) do not belong to the points."""
    values: list[dict[str, float]] = [{} for _ in range(count)]
    for item in items if isinstance(items, list) else []:
        column = item.get("controlPointValues") if isinstance(item, dict) else None
        if not isinstance(column, list) or len(column) != count:
            continue
        for target, value in zip(values, column, strict=False):
            if _is_number(value):
                target[str(item.get("name", ""))] = value
    return values


def _format_markups(points: PointList) -> str:
    controls = [
        {
            "id": number,
            "label": point.label,
            "description": point.description,
            "associatedNodeID": "",
            "position": "" if point.position_lps is None else list(point.position_lps),  # Slicer's own form of "no position"
            "orientation": ORIENTATION_LPS,
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": point.status,
        }
        for point, number in zip(points, _ids([point.id for point in points]), strict=False)
    ]
    markup: dict[str, Any] = {"type": "Fiducial"}
    if points.name:
        markup["name"] = points.name
    markup |= {
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": controls,
        "measurements": [
            {
                "name": name,
                "enabled": True,
                "units": "",
                "printFormat": "%5.3f %s",
                # NaN is what Slicer writes and reads for "no value"; it drops the whole list at a null.
                "controlPointValues": [(point.measurements or {}).get(name, math.nan) for point in points],
            }
            for name in _measurement_names(points)
        ],
    }
    return json.dumps({"@schema": MARKUPS_SCHEMA, "markups": [markup]}, ensure_ascii=False, indent=1) + "\n"


def _measurement_names(points: PointList) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.measurements or {}))


def _ids(given: Sequence[str]) -> list[str]:
    """The ids, empty ones replaced by numbers that are free."""
    free = (str(n) for n in itertools.count(1) if str(n) not in set(given))
    return [identifier or next(free) for identifier in given]


def _parse_fcsv(text: str) -> list[Point]:
    lines = list(io.StringIO(text, newline=""))
    header = list(itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), lines))
    columns: tuple[str, ...] = ()
    is_ras = True
    for line in header:
        key, _, value = (part.strip() for part in line[1:].partition("="))
        if key.lower() == "coordinatesystem":
            is_ras = _is_ras(value)
        elif key.lower() == "columns":
            columns = tuple(name.strip() for name in value.split(","))
        elif key.lower() == "markups fiducial file version":
            columns = columns or FCSV_COLUMNS
    rows = csv.reader(lines[len(header) :])
    points = []
    for row in rows:
        if row and any(row) and not row[0].startswith("#"):
            layout = columns or (FCSV_COLUMNS if len(row) > len(OLD_FCSV_COLUMNS) else OLD_FCSV_COLUMNS)
            points.append(_parse_fcsv_row(row, layout, is_ras, len(header) + rows.line_num))
    return points


def _parse_fcsv_row(row: list[str], columns: tuple[str, ...], is_ras: bool, line: int) -> Point:
    cells = dict(zip(columns, row, strict=False))
    status: Status = "defined"
    if columns == FCSV_COLUMNS and len(row) > FCSV_STATUS_COLUMN:
        names: dict[str, Status] = {str(number): name for name, number in STATUS_NUMBERS.items()}
        status = names.get(row[FCSV_STATUS_COLUMN].strip(), "undefined" if row[FCSV_STATUS_COLUMN].strip() == "1" else "defined")
    position = [_number(cells.get(axis, ""), axis, line) for axis in "xyz"] if status == "defined" else None
    return Point(
        label=cells.get("label", ""),
        position_lps=None if position is None else _to_lps(position, is_ras),
        description=cells.get("desc", ""),
        id=cells.get("id", ""),
        status=status,
    )


def _format_fcsv(points: PointList) -> str:
    stream = io.StringIO(newline="")
    stream.write(f"# Markups fiducial file version = 5.4\n# CoordinateSystem = LPS\n# columns = {','.join(FCSV_COLUMNS)}\n")
    writer = csv.writer(stream, lineterminator="\n")

    def one_line(text: str) -> str:
        return re.sub(r"[\r\n]+", " ", text)

    ids = _ids(["" if point.id.startswith("#") else one_line(point.id) for point in points])  # a line that begins with # is a comment
    for point, identifier in zip(points, ids, strict=False):
        position = point.position_lps or ("", "", "")
        texts = (one_line(point.label), one_line(point.description), "")
        writer.writerow([identifier, *position, *FCSV_FLAGS, *texts, STATUS_NUMBERS[point.status], 0])
    return stream.getvalue()


def _parse_csv(text: str) -> list[Point]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    points = []
    try:
        header = [name.strip() for name in next(rows, [])]
        names = [name.lower() if name.lower() in CSV_COLUMNS else name for name in header]
        lacking = [name for name in CSV_COLUMNS[:4] if name not in names]
        if lacking:
            raise InputError(f"line 1: no column {', '.join(lacking)} in '{','.join(header)}'; label,x,y,z (LPS mm) are needed.")
        for row in rows:
            if any(cell.strip() for cell in row):
                points.append(_parse_csv_row(row, names, rows.line_num))
    except csv.Error as error:
        raise InputError(f"line {rows.line_num}: {error}. Check the quotes and commas there.") from error
    return points


def _parse_csv_row(row: list[str], names: list[str], line: int) -> Point:
    if len(row) > len(names):
        raise InputError(f"line {line} has {len(row)} cells for {len(names)} columns; put cells that contain a comma in quotes.")
    cells = dict(zip(names, row, strict=False))
    status = cells.get("status", "").strip().lower() or "defined"
    if status not in get_args(Status):
        raise InputError(f"line {line}: the status is '{status}'; use {', '.join(get_args(Status))}, or leave it out.")
    x, y, z = (_number(cells.get(axis, ""), axis, line) if status == "defined" else 0.0 for axis in "xyz")
    measurements = {}
    for name in set(cells) - set(CSV_COLUMNS) - {""}:
        try:
            measurements[name] = float(cells[name])
        except ValueError:
            continue  # a text column of somebody's own
    return Point(
        label=cells["label"],
        position_lps=(x, y, z) if status == "defined" else None,
        description=cells.get("description", ""),
        id=cells.get("id", ""),
        status=cast(Status, status),
        measurements={name: value for name, value in measurements.items() if math.isfinite(value)},
    )


def _format_csv(points: PointList) -> str:
    names = _measurement_names(points)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow([*CSV_COLUMNS, *names])
    for point in points:
        values = [(point.measurements or {}).get(name, "") for name in names]
        writer.writerow([point.label, *(point.position_lps or ("", "", "")), point.description, point.id, point.status, *values])
    return stream.getvalue()

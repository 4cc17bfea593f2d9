"""Landmark files: every point comes back in LPS where it was, whatever the format, and damaged files say what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, read_points, write_points
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
coordinate = st.floats(-1e4, 1e4)
awkward = st.sampled_from(['a, "b"', "line\nbreak\r\n", "ü=#;'", " x "])
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | awkward
one_line = text.filter(lambda t: not set(t) & set("\r\n"))
COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
HEADER = f"# Markups fiducial file version = 5.4\n# CoordinateSystem = {{}}\n# columns = {COLUMNS}\n"


def points_of(label: st.SearchStrategy[str], identifier: st.SearchStrategy[str], measured: bool) -> st.SearchStrategy[PointList]:
    numbers = st.dictionaries(st.sampled_from(["confidence", "score (a.u.)"]), st.floats(-1e6, 1e6)) if measured else st.none()
    shared = {"label": label, "description": label, "id": identifier, "measurements": numbers}
    defined = st.builds(Point, position_lps=st.tuples(coordinate, coordinate, coordinate), **shared)
    absent = st.builds(Point, position_lps=st.none(), status=st.sampled_from(["missing", "undefined"]), **shared)
    return st.builds(PointList, st.lists(defined | absent, max_size=5), name=st.just("list"))


def saved(path: Path, content: object) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode())
    return path


def markup(system: object = "LPS", **fields: Any) -> dict[str, Any]:
    control = {"id": "7", "label": "carina", "position": [1.5, -2.5, 3.5], **fields.pop("control", {})}
    return {"type": "Fiducial", "coordinateSystem": system, "controlPoints": [control], **fields}


@QUICK
@given(points=points_of(text, text.filter(bool), measured=True))
def test_markups_keep_everything(tmp_path: Path, points: PointList) -> None:
    write_points(points, tmp_path / "list.mrk.json")
    assert read_points(tmp_path / "list.mrk.json") == points


@QUICK
@given(points=points_of(text, text, measured=True))
def test_csv_keeps_everything(tmp_path: Path, points: PointList) -> None:
    write_points(points, tmp_path / "list.csv")
    assert read_points(tmp_path / "list.csv") == points


@QUICK
@given(points=points_of(one_line, one_line.filter(lambda t: t and not t.startswith("#")), measured=False))
def test_fcsv_keeps_what_it_can(tmp_path: Path, points: PointList) -> None:
    write_points(points, tmp_path / "list.fcsv")
    assert read_points(tmp_path / "list.fcsv") == points


def test_fcsv_has_one_line_per_point(tmp_path: Path) -> None:
    write_points(PointList((Point("two\nlines", (1, 2, 3), "a\r\nb", "#5"), Point("b", None, status="missing"))), tmp_path / "a.fcsv")
    lines = (tmp_path / "a.fcsv").read_text().splitlines()
    assert lines == [*HEADER.format("LPS").splitlines(), "1,1.0,2.0,3.0,0,0,0,1,1,1,0,two lines,a b,,2,0", "2,,,,0,0,0,1,1,1,0,b,,,3,0"]


@pytest.mark.parametrize(("system", "expected"), [("LPS", 1), ("RAS", -1), ("1", 1), ("0", -1), (1, 1), (0, -1)])
def test_both_coordinate_systems(tmp_path: Path, system: object, expected: int) -> None:
    wanted = [[expected * 1.5, expected * -2.5, 3.5]]
    np.testing.assert_array_equal(read_points(saved(tmp_path / "a.mrk.json", {"markups": [markup(system)]})).positions(), wanted)
    line = '7,1.5,-2.5,3.5,0,0,0,1,1,1,0,"carina, ""main""","a, b",vtkMRMLScalarVolumeNode1\n'
    points = read_points(saved(tmp_path / "a.fcsv", HEADER.format(system) + line))
    np.testing.assert_array_equal(points.positions(), wanted)
    assert points.points[0] == Point('carina, "main"', points.points[0].position_lps, "a, b", "7")


def test_markups_without_system_are_lps_and_fcsv_without_are_ras(tmp_path: Path) -> None:
    item = markup()
    del item["coordinateSystem"]
    np.testing.assert_array_equal(read_points(saved(tmp_path / "a.json", {"markups": [item]})).positions(), [[1.5, -2.5, 3.5]])
    contents = (
        "A,1,2,3,1,1\n",
        "# Fiducial List file a.fcsv\n# columns = label,x,y,z,sel,vis\n\nA,1,2,3,1,1\n",
        "7,1,2,3,0,0,0,1,1,1,0,A,,\n",
        "# Markups fiducial file version = 4.6\n7,1,2,3,0,0,0,1,1,1,0,A\n#8,1,2,3,0,0,0,1,1,1,0,commented out,,\n",
    )
    for content in contents:
        points = read_points(saved(tmp_path / "a.fcsv", content))
        assert points.labels == ("A",) and points.name == "a"
        np.testing.assert_array_equal(points.positions(), [[-1, -2, 3]])
    short = read_points(saved(tmp_path / "a.fcsv", "# Markups fiducial file version = 4.6\n7,1,2,3\n"))
    assert short.points == (Point("", (-1, -2, 3), id="7"),)


def test_file_as_slicer_writes_it(tmp_path: Path) -> None:
    controls = [
        {"id": "1", "label": "F-1", "description": "ü", "position": [-11.0, -21.0, -389.0], "positionStatus": "defined"},
        {"id": "2", "label": "F-2", "position": "", "positionStatus": "missing"},
        {"id": "3", "label": "F-3", "position": [4, 5, 6], "positionStatus": "preview"},
        {"id": "4", "label": "F-1", "position": ""},
    ]
    measurements = [
        {"name": "confidence", "enabled": True, "controlPointValues": [0.5, float("nan"), None, 0.25]},
        {"name": "length", "enabled": False, "value": 3.0},
        {"name": "curvature", "controlPointValues": [1, 2]},
    ]
    item = markup(controlPoints=controls, measurements=measurements, coordinateUnits=["mm", "UCUM", "millimeter"])
    assert read_points(saved(tmp_path / "F.mrk.json", {"markups": [item]})) == PointList(
        (
            Point("F-1", (-11, -21, -389), "ü", "1", measurements={"confidence": 0.5}),
            Point("F-2", None, id="2", status="missing"),
            Point("F-3", None, id="3", status="undefined"),
            Point("F-1", None, id="4", status="undefined", measurements={"confidence": 0.25}),
        ),
        "F",
    )


def test_lists_of_one_file_are_joined_each_in_its_own_frame(tmp_path: Path) -> None:
    both = read_points(saved(tmp_path / "a.mrk.json", {"markups": [markup("RAS"), markup("LPS", name="x", coordinateUnits="um")]}))
    np.testing.assert_allclose(both.positions(), [[-1.5, 2.5, 3.5], [0.0015, -0.0025, 0.0035]])
    assert both.name == "a" and len(both) == 2
    assert read_points(saved(tmp_path / "a.mrk.json", {"markups": [markup(name="named")]})).name == "named"


def test_written_markups_have_the_fields_slicer_writes(tmp_path: Path) -> None:
    listed = (Point("a", (1, 2, 3), id="1", measurements={"confidence": 0.5}), Point("b", None, status="missing"), Point("c", (4, 5, 6)))
    write_points(PointList(listed, "lungs"), tmp_path / "a.mrk.json")
    data = json.loads((tmp_path / "a.mrk.json").read_text())
    item = data["markups"][0]
    assert "/markups-schema-v1.0" in data["@schema"]
    assert (item["type"], item["name"], item["coordinateSystem"], item["coordinateUnits"]) == ("Fiducial", "lungs", "LPS", "mm")
    keys = "id label description associatedNodeID position orientation selected locked visibility positionStatus"
    assert [list(control) for control in item["controlPoints"]] == [keys.split()] * 3
    assert [c["position"] for c in item["controlPoints"]] == [[1, 2, 3], "", [4, 5, 6]]
    assert [c["positionStatus"] for c in item["controlPoints"]] == ["defined", "missing", "defined"]
    assert [c["id"] for c in item["controlPoints"]] == ["1", "2", "3"]
    assert item["controlPoints"][0]["orientation"] == [-1, 0, 0, 0, -1, 0, 0, 0, 1]
    (measurement,) = item["measurements"]
    assert (measurement["name"], measurement["enabled"], measurement["units"]) == ("confidence", True, "")
    np.testing.assert_array_equal(measurement["controlPointValues"], [0.5, np.nan, np.nan])


def test_empty_ids_become_free_numbers(tmp_path: Path) -> None:
    write_points(PointList(tuple(Point("p", (0, 0, 0), id=given) for given in ("2", "", "", "x"))), tmp_path / "a.mrk.json")
    assert [point.id for point in read_points(tmp_path / "a.mrk.json")] == ["2", "1", "3", "x"]


def test_plain_csv_by_hand(tmp_path: Path) -> None:
    content = '\ufeffLabel , x,y,Z,comment,confidence\ncarina,1,-2.5,3e1,by eye,0.75\n\n"a\nb",0,0,0,,\n'
    points = read_points(saved(tmp_path / "hand.csv", content))
    assert points == PointList((Point("carina", (1, -2.5, 30), measurements={"confidence": 0.75}), Point("a\nb", (0, 0, 0))), "hand")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "label,x,y\na,1,2\n", "line 1: no column z"),
        ("a.csv", "", "no column label, x, y, z"),
        ("a.csv", "label,x,y,z\n\na,1,2,3\nb,1,two,3\n", "line 4: y is 'two'"),
        ("a.csv", "label,x,y,z\na,1,2\n", "line 2: z is ''"),
        ("a.csv", "label,x,y,z\na,1,2,nan\n", "line 2: z is 'nan'"),
        ("a.csv", "label,x,y,z\na, b,1,2,3\n", "line 2 has 5 cells for 4 columns"),
        ("a.csv", "label,x,y,z,status\na,1,2,3,gone\n", "line 2: the status is 'gone'"),
        ("a.csv", 'label,x,y,z\n"a,1,2,3\n', "Check the quotes"),
        ("a.csv", b"label,x,y,z\n\xe4,1,2,3\n", "not UTF-8"),
        ("a.fcsv", "# CoordinateSystem = IJK\nA,1,2,3,1,1\n", "coordinate system is 'IJK'"),
        ("a.fcsv", "# CoordinateSystem = 2\nA,1,2,3,1,1\n", "coordinate system is '2'"),
        ("a.fcsv", HEADER.format("LPS") + "1,1,2,3,0,0,0,1,1,1,0,ok,,\n2,1,b,3,0,0,0,1,1,1,0,bad,,\n", "line 5: y is 'b'"),
        ("a.mrk.json", '{\n"markups" 3', "no valid JSON .*line 2"),
        ("a.mrk.json", "[" * 100_000, "no valid JSON"),
        ("a.mrk.json", {"points": []}, "no list 'markups'"),
        ("a.mrk.json", {"markups": [markup("IJK")]}, "coordinate system is 'IJK'"),
        ("a.mrk.json", {"markups": [markup(coordinateUnits="inch")]}, "'inch'"),
        ("a.mrk.json", {"markups": [markup(controlPoints={})]}, "no list of control points"),
        ("a.mrk.json", {"markups": [markup(control={"position": [1, 2]})]}, r"control point 1 \('carina'\) has the position \[1, 2\]"),
        ("a.mrk.json", {"markups": [markup(control={"position": [1, 2, float("inf")]})]}, "three finite numbers"),
        ("a.mrk.json", {"markups": [markup(control={"position": [1, 2, 10**400]})]}, "three finite numbers"),
        ("a.mrk.json", {"markups": [markup(control={"positionStatus": "lost"})]}, "positionStatus 'lost'"),
        ("a.txt", "", "unknown extension"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_points(saved(tmp_path / name, content))
    assert name in str(caught.value)


def test_absent_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_points(tmp_path / "a.csv")
    with pytest.raises(InputError, match="does not exist"):
        write_points(PointList(()), tmp_path / "none" / "a.csv")
    with pytest.raises(InputError, match="unknown extension"):
        write_points(PointList(()), tmp_path / "a.txt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = saved(tmp_path / "a.csv", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(InputError, match="No space left"):
            write_points(PointList((Point("a", (1, 2, 3)),)), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_point_list_helpers() -> None:
    points = PointList((Point("a", (1, 2, 3)), Point("b", None, status="missing"), Point("c", (4, 5, 6)), Point("c", (7, 8, 9))), "chest")
    assert points.labels == ("a", "b", "c", "c") and len(points) == 4
    np.testing.assert_array_equal(points.positions(), [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert points.positions().dtype == np.float64 and PointList(()).positions().shape == (0, 3)
    assert points.by_label("b").status == "missing"
    for label, words in (("c", "2 points are labelled 'c'"), ("d", "0 points .* Labels: a, b, c, c")):
        with pytest.raises(InputError, match=words):
            points.by_label(label)


@pytest.mark.parametrize(
    "fields",
    [
        {"position_lps": None},
        {"position_lps": (1, 2, 3), "status": "missing"},
        {"position_lps": (1, 2)},
        {"position_lps": (1, 2, float("nan"))},
        {"position_lps": (1, 2, 3), "status": "preview"},
        {"position_lps": (1, 2, 3), "measurements": {"confidence": float("nan")}},
    ],
)
def test_impossible_points_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="'here'"):
        Point("here", **fields)


def test_real_landmarks(data_dir: Path) -> None:
    points = read_points(data_dir / "dev" / "ct" / "lidc_0001_chest.mrk.json")
    assert points.by_label("carina").position_lps == (-1.4, 18.3, -115.4)
    assert len(points) == len(points.positions()) > 5

"""Proving that a step changes nothing: numbers kept to the bit, every difference told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "equal.py"
SPEC = importlib.util.spec_from_file_location("equal_benchmark", FILE)
assert SPEC is not None and SPEC.loader is not None
equal = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(equal)

VALUES = {
    "match carina point_lps": equal.exact(np.array([1.1, 2.2, 3.3])),
    "match carina confidence": equal.exact(0.1 + 0.2),
    "match carina status": "found",
    "register note": "",
    "register refined_mm": None,
    "embed fine": equal.exact(np.arange(60, dtype=np.float16).reshape(3, 4, 5)),
}


def stored(path: Path, values: dict[str, object], torch: str = "2.13") -> Path:
    path.write_text(json.dumps({"packages": {"torch": torch}, "values": values}))
    return path


def test_equal_runs_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (stored(tmp_path / name, VALUES) for name in ("a.json", "b.json"))
    assert equal.main(["compare", str(before), str(after)]) == 0
    assert capsys.readouterr().out == "0 of 6 values differ.\n"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("match carina confidence", equal.exact(0.3), "off by up to 5.55e-17"),
        ("match carina point_lps", equal.exact(np.array([1.1, 2.2, 3.25])), "off by up to 0.05 "),
        ("match carina status", "absent", "found before, absent after"),
        ("register refined_mm", equal.exact(1.5), "None before"),
        ("register note", "Not refined.", "Not refined. after"),
        ("embed fine", equal.exact(np.zeros((3, 4, 5), np.float16)), "sha256:"),
    ],
)
def test_one_value_that_differs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: object, words: str) -> None:
    before = stored(tmp_path / "a.json", VALUES)
    after = stored(tmp_path / "b.json", VALUES | {name: value})
    assert equal.main(["compare", str(before), str(after)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{name}: ") and words in first
    assert last == "1 of 6 values differ."


def test_what_is_gone_and_what_is_new_is_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    less = {name: value for name, value in VALUES.items() if name != "register note"}
    files = [stored(tmp_path / "a.json", VALUES), stored(tmp_path / "b.json", less, "2.14")]
    for (before, after), words in ((files, "is gone"), (files[::-1], "is new")):
        assert equal.compare(before, after) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == f"register note: {words}"
        assert "Other packages" in lines[0], "a hint, no difference by itself"
    assert equal.compare(files[0], stored(tmp_path / "c.json", VALUES, "2.14")) == 0


def test_many_differences_are_counted_not_all_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [stored(tmp_path / f"{value}.json", dict.fromkeys(map(str, range(60)), value)) for value in ("one", "other")]
    assert equal.compare(*files) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 52 and lines[-2:] == ["... and 10 more", "60 of 60 values differ."]


def test_a_value_stands_for_its_numbers_to_the_bit_their_type_and_their_shape() -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    other = array.copy()
    other[1, 2, 3] = np.nextafter(other[1, 2, 3], np.float32(100))
    hashes = {equal.exact(a) for a in (array, other, array.astype(np.float64), array.reshape(5, 4, 3), array[::-1])}
    assert len(hashes) == 5
    assert equal.exact(array) == equal.exact(np.asfortranarray(array))
    numbers = np.array([0.1, -0.0, np.nan, np.inf])
    assert equal.exact(numbers) == ["0x1.999999999999ap-4", "-0x0.0p+0", "nan", "inf"]
    assert equal.exact(0.1) == equal.exact(np.float64(0.1)) == "0x1.999999999999ap-4"


def test_pairs_are_those_that_the_files_list_both_ways(tmp_path: Path) -> None:
    for file, (a, b) in equal.LANDMARK_PAIRS.items():
        ways = [(a, b), (b, a)]
        pairs = [{"template": f"{x}.nii.gz", "target": f"{y}.nii.gz"} for x, y in ways]
        (tmp_path / file).write_text(json.dumps(pairs))
    ways = equal.both_ways(tmp_path)
    assert ways == [w for a, b in equal.LANDMARK_PAIRS.values() for w in ((a, b), (b, a))]
    (tmp_path / "pairs_mr_brain.json").write_text("[]")
    with pytest.raises(ValueError, match="does not list"):
        equal.both_ways(tmp_path)

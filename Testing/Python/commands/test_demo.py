"""`uae demo` as a newcomer runs it."""

from __future__ import annotations

import json
from pathlib import Path

from UniversalAnatomicalEmbeddingLib.commands.main import MATCH_COLUMNS, main


def test_demo_writes_a_report_and_honest_figures(tmp_path: Path, capsys) -> None:
    assert main(["demo", "--out", str(tmp_path), "--device", "cpu"]) == 0
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    assert summary["n"] >= 10
    assert summary["n_absent"] >= 2
    assert "carina" in printed
    assert "not in the target" in printed
    assert (tmp_path / "matches.csv").read_text().splitlines()[0] == ",".join(MATCH_COLUMNS)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "errors.png").is_file()

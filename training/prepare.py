"""Write the index that training reads from a folder of canonical 2 mm scans described by an ``INDEX.csv``."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

MAX_MISALIGNMENT_MM = 8.0


def main() -> None:
    """``python -m training.prepare --source FOLDER --out index.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with INDEX.csv, train/ct and train/mr")
    parser.add_argument("--out", type=Path, required=True, help="index file to write")
    args = parser.parse_args()
    rows = index_rows(args.source)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "modality", "frame", "licence"])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "path": os.path.relpath(row["path"], args.out.parent)})
    print(f"{len(rows)} scans in {len({r['frame'] for r in rows})} frames -> {args.out}")


def index_rows(source: Path) -> list[dict[str, str]]:
    """One row per training scan; scans of one patient that share a physical frame carry the same ``frame``."""
    aligned = aligned_pairs(source / "train" / "ctmr_pairs.json")
    rows = []
    with (source / "INDEX.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] != "train":
                continue
            modality = row["modality"].lower()
            path = source / "train" / modality / f"{row['name']}.nii.gz"
            rows.append({"path": str(path), "modality": modality, "frame": frame_of(row["name"], aligned), "licence": row["licence"]})
    return rows


def aligned_pairs(path: Path) -> set[str]:
    """Patients whose CT and MR agree to ``MAX_MISALIGNMENT_MM``."""
    pairs = json.loads(path.read_text(encoding="utf-8"))
    return {Path(p["fixed"]).name.split("_")[0] for p in pairs if p["mi_shift_mm"] <= MAX_MISALIGNMENT_MM}


def frame_of(name: str, aligned: set[str]) -> str:
    """Patient (and visit) of scans known to be aligned, otherwise the scan's own name."""
    parts = name.split("_")
    if parts[0] in aligned or parts[0].startswith(("prostx", "mscs")):
        return parts[0]
    if parts[0].startswith("ms") and len(parts) == 3:
        return "_".join(parts[:2])
    if name.startswith("sct_mt"):
        return "sct_mt"
    if name.endswith(("MTon", "MToff")):
        return "_".join(parts[:2])
    return name


if __name__ == "__main__":
    main()

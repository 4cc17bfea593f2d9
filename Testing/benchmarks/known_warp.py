"""Make the known-warp test of some scans (``training/measure/known_warp.py``).

``python Testing/benchmarks/known_warp.py --scans a.nii.gz b.nii.gz --out FOLDER`` writes warped scans, landmark files and ``pairs.json``; then
``uae evaluate FOLDER/pairs.json --out RESULT`` measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training.measure.known_warp import warped_pair
from UniversalAnatomicalEmbeddingLib.images import read_volume, write_volume
from UniversalAnatomicalEmbeddingLib.landmarks import Point, PointList, write_points


def main() -> None:
    """Write the pairs of all scans given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pairs = []
    for seed, path in enumerate(args.scans):
        volume = read_volume(path)
        warped, points, truth = warped_pair(volume, seed)
        write_volume(warped, args.out / f"{volume.name}_warped.nii.gz")
        for positions, name in ((points, volume.name), (truth, f"{volume.name}_warped")):
            listed = tuple(Point(f"p{i:03d}", tuple(map(float, p))) for i, p in enumerate(positions))
            write_points(PointList(listed), args.out / f"{name}.mrk.json")
        pairs.append(
            {
                "template": str(path.resolve()),
                "template_landmarks": f"{volume.name}.mrk.json",
                "target": f"{volume.name}_warped.nii.gz",
                "target_landmarks": f"{volume.name}_warped.mrk.json",
            }
        )
    (args.out / "pairs.json").write_text(json.dumps(pairs, indent=1))
    print(f"{len(pairs)} pairs, {args.out}/pairs.json")


if __name__ == "__main__":
    main()

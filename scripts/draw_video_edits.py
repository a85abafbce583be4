"""Rng the strips of the page on AnyV2V, on the embedded model, into docs/images/.

python scripts/draw_video_edits.py [MODEL]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from torch.nn import functional

from calotype import load
from calotype.core.events import SILENT
from calotype.evaluation.anyv2v import ClipEditExperiment
from calotype.evaluation.clip_edits import cases
from calotype.imaging.types import Image
from calotype.methods.anyv2v import AnyV2V

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SEED, COUNT = 12, 4
GAP = 4


def main() -> None:
    """Make the picture anew: one edit of each kind, none left out."""
    model = load(sys.argv[1] if len(sys.argv) > 1 else "toy-i2v", device="cpu")
    some = cases("small", "eval", SEED, COUNT)
    test = ClipEditExperiment(model, dataclasses.replace(AnyV2V.toy(), cache_megabytes=0, rebuild=False), SEED, SILENT)
    made = zip(some, test.edited()(some, SILENT), test.continued()(some, SILENT), strict=True)
    rows = []
    for case, ours, plain in made:
        rows += [torch.cat(list(clip), dim=2) for clip in (case.source.clip, case.edited.clip, ours, plain)]
        rows.append(torch.ones(3, GAP, rows[-1].shape[2]))
    sample_grid = functional.interpolate(torch.cat(rows[:-1], dim=1)[None].clamp(0, 1), scale_factor=2, mode="nearest")[0]
    Image(sample_grid).save(IMAGES / "anyv2v.png", overwrite=True)


if __name__ == "__main__":
    main()
